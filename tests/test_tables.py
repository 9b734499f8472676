"""Tables for people and JSON for scripts: what comes from outside neither colours nor breaks them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from plates import QUICK, write_plate
from rich.console import Console
from rich.text import Text

import segkit
from segkit import tables
from segkit.kit import Kit
from segkit.segmenters import get


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    """A kit with a queued run over three images, and one file that cannot be read."""
    folder = tmp_path_factory.mktemp("tables")
    with segkit.open(folder / "home", **QUICK) as kit:
        project = kit.project("[bold]plate[/]", create=True)
        write_plate(folder / "plate", [1, 2, 3])
        (folder / "plate" / "broken.tif").write_text("none")
        project.add(folder / "plate", pixel_size_um=0.5)
        project.segment("threshold", channel=0)
        yield kit


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def shown(text: str) -> str:
    """What a person sees of a cell."""
    return Text.from_markup(text).plain


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (None, ""),
        (3, "3"),
        (2.5, "2.50"),
        ("[red]x[/red]", "[red]x[/red]"),
        ("[/]", "[/]"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("🔬 µm", "🔬 µm"),
        ("back\\[slash", "back\\[slash"),
        ("ends with \\", "ends with \\"),
        ("done", "done"),
    ],
)
def test_a_cell_shows_what_is_in_it(value: object, seen: str) -> None:
    assert shown(tables.cell(value)) == seen


def test_states_have_colours_and_times_are_local() -> None:
    assert tables.cell("failed") == "[red]failed[/]"
    moment = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
    assert tables.cell(moment) == moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def test_json_is_one_line_of_anything(capsys: pytest.CaptureFixture[str]) -> None:
    tables.put_json({"at": datetime(2026, 5, 4, tzinfo=UTC), "name": "new\nline"})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"at": "2026-05-04 00:00:00+00:00", "name": "new\nline"}


def test_a_table_of_evil_names(capsys: pytest.CaptureFixture[str]) -> None:
    tables.put_table("Names", ["name"], [["[/][bold]x"], ["a\nb"], ["x" * 300]])
    out = capsys.readouterr().out
    assert "[/][bold]x" in out
    assert "a\\nb" in out
    assert out.count("x") >= 301, "long names fold and lose nothing"


OPTIONS = {"project": None, "run": None, "status": None, "unreadable": False, "limit": 50, "after": None, "offset": None}


@pytest.mark.parametrize(
    ("what", "options", "seen"),
    [
        ("projects", {}, ["[bold]plate[/]", "1 of 1"]),
        ("images", {"project": "[bold]plate[/]"}, ["000.tif", "64×64", "uint8", "0.5", "4 of 4"]),
        ("images", {"project": "[bold]plate[/]", "limit": 2}, ["2 of 4", "Next page: --after"]),
        ("images", {"project": "[bold]plate[/]", "unreadable": True}, ["broken.tif", "1 of 1"]),
        ("runs", {}, ["threshold", "1 of 1"]),
        ("runs", {"project": "[bold]plate[/]"}, ["threshold"]),
        ("jobs", {"run": 1, "status": "queued"}, ["001.tif", "queued", "3 of 3"]),
        ("jobs", {"run": 1, "offset": 2}, ["002.tif", "1 of 3"]),
        ("segmenters", {}, ["threshold", "tile-exact"]),
        ("exports", {}, ["coco", "geojson"]),
    ],
)
def test_lists_for_people_and_for_scripts(
    kit: Kit, capsys: pytest.CaptureFixture[str], what: str, options: dict[str, object], seen: list[str]
) -> None:
    tables.LISTINGS[what](kit, False, **(OPTIONS | options))
    out = capsys.readouterr().out
    for text in seen:
        assert text in out
    tables.LISTINGS[what](kit, True, **(OPTIONS | options))
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("what", ["images", "jobs"])
def test_a_list_that_needs_to_know_of_what_says_so(kit: Kit, what: str) -> None:
    with pytest.raises(typer.BadParameter, match="Say of which"):
        tables.LISTINGS[what](kit, False, **OPTIONS)


def test_a_segmenter_shows_every_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    segmenter = get("threshold")
    tables.show_segmenter(segmenter, False)
    out = capsys.readouterr().out
    assert all(name in out for name in segmenter.parameters.model_fields)
    assert "µm" in out
    tables.show_segmenter(segmenter, True)
    assert set(json.loads(capsys.readouterr().out)["schema"]["properties"]) == set(segmenter.parameters.model_fields)


def test_every_run_column_has_its_value(kit: Kit) -> None:
    row = tables.run_row(kit.run(1).record)
    assert len(row) == len(tables.RUN_COLUMNS)
    assert row[:4] == [1, "[bold]plate[/]", "threshold", 3]


def test_rich_agrees_that_cells_are_harmless() -> None:
    console = Console(record=True, width=100, force_terminal=True, file=Path("/dev/null").open("w"))  # noqa: SIM115 - closed below
    console.print(tables.cell("[link=https://example.org]click[/link]"))
    assert "example.org]click" in console.export_text()
    console.file.close()
