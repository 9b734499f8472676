"""What makes the inputs: atheris, which learns from the paths that inputs take, or hypothesis. Each fuzzes one target in this process."""

from __future__ import annotations

import importlib
import importlib.util
import json
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

#: An input that takes longer is a finding, as is one that takes more memory.
SLOW_SECONDS = 20
MOST_MEMORY_MB = 2048
#: Whose paths atheris watches: our own readers; the rest is other people's, and slow enough without.
WATCHED = ("image", "ome_zarr", "packing", "raster", "segments", "tiff", "tiff_metadata")
FOUND = 77


def best() -> str:
    """Name the engine that is there."""
    return "atheris" if importlib.util.find_spec("atheris") else "hypothesis"


def run_atheris(name: str, seconds: int, seed: int, folder: Path) -> None:
    """Fuzz until the time is over or something is found; ends the process."""
    import atheris

    from tests.fuzz import targets

    watch(atheris.instrument_func)
    corpus, target = folder / "corpus", targets.TARGETS[name]
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (corpus / f"seed{number}").write_bytes(data)
    given = [f"-max_total_time={seconds}", f"-max_len={targets.MOST_BYTES}", f"-seed={seed}", f"-timeout={SLOW_SECONDS}"]
    given += [f"-rss_limit_mb={MOST_MEMORY_MB}", f"-artifact_prefix={folder}/found-", "-print_final_stats=1", "-verbosity=1"]

    def feed(data: bytes) -> None:
        try:
            target.feed(data)
        except BaseException:
            (folder / "found-exception").write_bytes(data)  # libFuzzer keeps those alone that end the process
            raise

    atheris.Setup([sys.argv[0], *given, str(corpus)], feed)
    atheris.Fuzz()


def watch(instrument: Callable[[Any], Any]) -> None:
    """Have the functions watched that read what comes from outside; watching whole packages as they are imported takes minutes."""
    modules = [importlib.import_module(f"segkit.images.{name}") for name in WATCHED]
    modules += [sys.modules[name] for name in ("segkit.pages", "segkit.server.ranges", "segkit.server.sites", "segkit.batches.parameters")]
    for module in modules:
        homes = [module, *(each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__)]
        for home in homes:
            for each in list(vars(home).values()):
                if isinstance(each, FunctionType) and each.__module__ == module.__name__ and each.__code__.co_filename == module.__file__:
                    instrument(each)


def run_hypothesis(name: str, seconds: int, seed: int, folder: Path) -> None:
    """Fuzz until the time is over or something is found; ends the process then."""
    from tests.fuzz import targets

    count, found, error = feed_for(targets.TARGETS[name], seconds, seed)
    print(f"stat::number_of_executed_units: {count}", file=sys.stderr)
    if error is not None:
        (folder / f"found-{seed}").write_bytes(found)
        traceback.print_exception(error)
        sys.exit(FOUND)


def feed_for(target: Any, seconds: float, seed: int) -> tuple[int, bytes, BaseException | None]:
    """Have hypothesis make inputs for so long; returns how many, and the smallest that something was wrong with, and what."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    until, count, last = time.monotonic() + seconds, 0, b""
    edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=8), st.integers(0, 8)), max_size=6)
    inputs = st.binary(max_size=200) | st.builds(mutated, st.sampled_from(target.seeds()), edits)
    phases = [Phase.generate, Phase.shrink]
    while time.monotonic() < until:

        @seeded(seed)
        @settings(max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=phases)
        @given(inputs)
        def feed(data: bytes) -> None:
            nonlocal count, last
            count, last = count + 1, data
            if time.monotonic() > until:
                raise KeyboardInterrupt  # hypothesis ends for nothing less
            target.feed(data)

        try:
            feed()
        except KeyboardInterrupt:
            break
        except BaseException as error:  # noqa: BLE001 - whatever it is, it was found
            return count, last, error
        seed += 1
    return count, b"", None


def mutated(data: bytes, edits: list[tuple[float, bytes, int]]) -> bytes:
    """Replace pieces of an input."""
    for where, piece, gone in edits:
        place = int(where * len(data))
        data = data[:place] + piece + data[place + gone :]
    return data


def main() -> None:
    """Run as the child of `python -m tests.fuzz`, with what to do as JSON in the first argument."""
    asked = json.loads(sys.argv[1])
    random.seed(asked["seed"])
    {"atheris": run_atheris, "hypothesis": run_hypothesis}[asked["engine"]](
        asked["target"], asked["seconds"], asked["seed"], Path(asked["folder"])
    )


if __name__ == "__main__":
    main()
