"""What fuzzing found stays found, each target takes its first inputs, and the command counts and tells."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus import peak_memory

from tests.fuzz import __main__ as command
from tests.fuzz import engines, targets

FOUND = sorted((Path(__file__).parent / "fuzz" / "regressions").iterdir())
MOST_BYTES = 2**28


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_what_was_found_is_refused_in_words_and_within_bounds(path: Path) -> None:
    with peak_memory() as peak:
        targets.TARGETS[path.name.split("-")[0]].feed(path.read_bytes())
    assert peak() < MOST_BYTES


@pytest.mark.parametrize("name", targets.TARGETS)
def test_each_target_takes_what_it_starts_from(name: str) -> None:
    target = targets.TARGETS[name]
    seeds = target.seeds()
    assert seeds
    for data in [*seeds[:40], b"", b"\0", bytes(range(256))]:
        target.feed(data)


def test_what_is_wrong_is_found_and_told() -> None:
    """Here an input is wrong when it holds an "x"."""

    def feed(data: bytes) -> None:
        assert b"x" not in data

    count, found, error = engines.feed_for(targets.Target(feed, lambda: [b"abc", b"axc"]), 30, 1)
    assert count > 1
    assert b"x" in found
    assert isinstance(error, AssertionError)
    said = (
        "  |   File\n  | AssertionError: assert 1\n==7== ERROR: libFuzzer: out-of-memory\nstat::number_of_executed_units: 12\n#99\tDONE\n"
    )
    assert command.why(said) == "  | AssertionError: assert 1 | ==7== ERROR: libFuzzer: out-of-memory"
    assert [int(one or two) for one, two in command.COUNT.findall(said)] == [12, 99]


@pytest.mark.parametrize("name", ["cursor", "range", "requests"])
def test_a_moment_of_fuzzing_finds_nothing(name: str) -> None:
    count, found, error = engines.feed_for(targets.TARGETS[name], 0.3, 1)
    assert count
    assert error is None, found


def test_shares_are_of_the_whole() -> None:
    assert set(command.SHARES) == set(targets.TARGETS)
    assert sum(command.SHARES.values()) == pytest.approx(1)
