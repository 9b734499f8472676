"""Widgets without a browser: what the page is told, what it may ask, and what a person's doings change."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from plates import QUICK, write_plate

from segkit import corrections, kit, segmenters
from segkit.errors import CorrectionConflictError, CorrectionError, InvalidParameterError, NothingToRunError, SelectionError, TrainingError
from segkit.images import Selection, open_image
from segkit.pages import DEEPEST_OFFSET, Page
from segkit.segmenters.parameters import Parameters, parameter
from segkit.synthetic import nuclei_field
from segkit.widgets import Editor, Gallery, Painter, Queue, Tuner, Viewer, assets
from segkit.widgets.forms import fields_of
from segkit.widgets.listing import Listing
from segkit.widgets.newest import Newest
from segkit.widgets.stage import worded
from segkit.widgets.tiles import TILE, HeldLabels, Pixels, levels_of, tile_shape

WIDGETS = (Editor, Gallery, Painter, Queue, Tuner, Viewer)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kit.Kit]:
    """A kit with a finished run over images of 4 and 2 squares, and a file that is none."""
    place = tmp_path_factory.mktemp("plate")
    write_plate(place / "images", [4, 2])
    (place / "images" / "broken.tif").write_text("no image")
    with kit.open(place / "home", **QUICK) as chosen:
        project = chosen.project("plate", create=True)
        project.add(place / "images", pixel_size_um=0.5)
        project.segment("threshold", threshold=100, sigma=0).work_off()
        yield chosen


def image_of(opened: kit.Kit, objects: int = 4) -> kit.Image:
    return next(result.image for result in opened.run(1).results() if result.objects == objects)


def ask(widget: Any, what: str, **content: Any) -> tuple[dict[str, Any], list[bytes]]:
    answer = widget.answer({"id": 1, "ask": what, **content})
    json.dumps(answer[0], allow_nan=False)
    return answer


# Pieces of images


def test_a_piece_is_the_image_there(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (700, 900), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with open_image(str(tmp_path / "a.tif")) as image:
        shown = Pixels(image, Selection())
        piece = np.frombuffer(shown.tile(0, 1, 3, [(0, 0, 255)]), np.uint8).reshape(TILE, 900 - 3 * TILE)
        np.testing.assert_array_equal(piece, pixels[TILE : 2 * TILE, 3 * TILE :])
        far = np.frombuffer(shown.tile(2, 0, 0, [(0, 0, 255)]), np.uint8).reshape(175, 225)
        np.testing.assert_allclose(far, pixels.reshape(175, 4, 225, 4).mean(axis=(1, 3)), atol=1)
        assert shown.levels == 3
        for place in ((0, 3, 0), (3, 1, 0), (0, -1, 0)):
            with pytest.raises(SelectionError):
                shown.tile(*place, [(0, 0, 255)])


def test_channels_have_a_contrast_each(tmp_path: Path) -> None:
    pixels = np.zeros((2, 300, 300), np.uint16)
    pixels[0, 50:150, 50:150], pixels[1] = 5000, 7
    tifffile.imwrite(
        tmp_path / "a.ome.tif", pixels, photometric="minisblack", metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    )
    with open_image(str(tmp_path / "a.ome.tif")) as image:
        shown = Pixels(image, Selection())
        dapi, gfp = shown.channels
        assert (dapi.name, dapi.low, dapi.high, gfp.name) == ("DAPI", 0, 5000, "GFP")
        assert gfp.high > gfp.low, "a flat channel can be shown too"
        both = np.frombuffer(shown.tile(0, 0, 0, [(0, 0, 5000), (1, 0, 20)]), np.uint8).reshape(2, TILE, TILE)
        assert (both[0, 100, 100], both[0, 0, 0], both[1, 0, 0]) == (255, 0, 89)


def test_a_flat_large_image_is_read_once_for_all_far_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((4500, 5000), np.uint8)
    pixels[:, 2500:] = 100
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(512, 512))
    with open_image(str(tmp_path / "a.tif")) as image:
        shown = Pixels(image, Selection())
        shown.tile(4, 0, 0, [(0, 0, 255)])
        monkeypatch.setattr(image, "region", None)
        piece = np.frombuffer(shown.tile(4, 0, 0, [(0, 0, 255)]), np.uint8).reshape(TILE, TILE)
        assert set(np.unique(piece[:, :154])) == {0}
        assert set(np.unique(piece[:, 159:])) == {100}


def test_labels_keep_their_numbers_at_every_level() -> None:
    labels = np.zeros((600, 800), np.int32)
    labels[100:500, 100:700] = 70_000
    held = HeldLabels(labels, (0, 0), labels.shape)
    for level in range(levels_of(labels.shape)):
        rows, columns = tile_shape(labels.shape, level, 0, 0)
        piece = held.tile(level, 0, 0)
        assert piece.shape == (rows + 2, columns + 2)
        np.testing.assert_array_equal(piece[1:-1, 1:-1], labels[:: 2**level, :: 2**level][:rows, :columns])
    inner = HeldLabels(labels[100:300, 100:300], (100, 100), labels.shape).tile(0, 0, 0)
    np.testing.assert_array_equal(inner[1:-1, 1:-1], labels[:TILE, :TILE])


# Viewer


def test_the_viewer_shows_objects_and_what_was_measured(opened: kit.Kit) -> None:
    viewer = Viewer(image_of(opened), opened.run(1))
    assert (viewer.rows, viewer.columns, viewer.objects, viewer.pixel_size_um) == (64, 64, 4, 0.5)
    packed = ask(viewer, "labels", level=0, row=0, column=0)[1][0]
    labels = np.frombuffer(zlib.decompress(packed), "<u4").reshape(66, 66)[1:-1, 1:-1]
    np.testing.assert_array_equal(labels, opened.run(1).labels(image_of(opened)))
    measured = dict(ask(viewer, "object", label=2)[0]["measured"])
    assert measured["area, µm²"] == 36
    assert ask(viewer, "object", label=99)[0] == {"measured": []}
    viewer.close()


def test_what_cannot_be_answered_is_told_in_words(opened: kit.Kit) -> None:
    viewer = Viewer(image_of(opened))
    sent: list[Any] = []
    viewer.send = lambda content, buffers=None: sent.append(content)  # type: ignore[method-assign]
    viewer._asked(viewer, {"id": "a-1", "ask": "pixels", "level": 9, "row": 9, "column": 0, "channels": []}, [])
    viewer._asked(viewer, {"id": "a-2", "ask": "nothing of this kind"}, [])
    wait_until(lambda: bool(sent))
    assert sent == [{"id": "a-1", "error": "There is no such piece of the image."}]


def wait_until(true: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Tuner


class Made(Parameters):
    """One of each kind."""

    size: float = parameter(5, "How large.", unit="px", ge=1, le=50, step=0.5)
    count: int = parameter(3, "How many.", ge=0, le=10_000_000)
    level: float | None = parameter(None, "Brightness.", unit="intensity")
    strict: bool = parameter(True, "Whether.")


def test_a_control_for_each_parameter_comes_from_the_schema() -> None:
    made = segmenters.Segmenter("made", "1", "", Made, False, lambda *_: np.zeros((1, 1), np.int32))
    size, count, level, strict = fields_of(made, (10, 900))
    assert (size["kind"], size["low"], size["high"], size["step"], size["unit"], size["description"]) == (
        "number",
        1,
        50,
        0.5,
        "px",
        "How large.",
    )
    assert (count["kind"], count["step"], count["even"]) == ("integer", 1, False)
    assert (level["optional"], level["low"], level["high"], level["default"]) == (True, 10, 900, None)
    assert (strict["kind"], strict["default"]) == ("flag", True)


@pytest.mark.parametrize("name", segmenters.names())
def test_every_segmenter_has_controls(name: str) -> None:
    for field in fields_of(segmenters.get(name)):
        assert field["kind"] in ("number", "integer", "flag", "choice", "text")
        assert field["description"]
        json.dumps(field)


def test_moving_a_slider_changes_the_objects(opened: kit.Kit) -> None:
    tuner = Tuner(opened.project("plate"), "threshold", image_of(opened), sigma=0, threshold=100)
    assert tuner.wait()
    assert tuner.objects == 4
    tuner.values = tuner.values | {"min_area": 1000}
    assert tuner.wait()
    assert (tuner.objects, tuner.failed) == (0, False)
    assert tuner.parameters == {"sigma": 0, "threshold": 100, "min_area": 1000}
    tuner.values = tuner.values | {"min_area": -5}
    assert tuner.wait()
    assert tuner.failed
    assert "min_area" in tuner.message


def test_another_method_has_its_own_controls(opened: kit.Kit) -> None:
    tuner = Tuner(opened.project("plate"), "threshold", image_of(opened))
    tuner.method = "nuclei"
    assert tuner.wait()
    assert {field["name"] for field in tuner.fields} == set(segmenters.get("nuclei").parameters.model_fields)
    assert tuner.values["separation"] == 0.75


def test_applying_queues_a_run_once(opened: kit.Kit) -> None:
    tuner = Tuner(opened.project("plate"), "threshold", sigma=3)
    number = ask(tuner, "apply")[0]["run"]
    assert ask(tuner, "apply")[0]["run"] == number
    assert opened.run(number).record.parameters["sigma"] == 3
    assert opened.run(number).progress().total == 2, "the broken file is not asked for"
    assert f"Run {number} is queued" in tuner.message


def test_a_redraw_takes_less_than_300_ms(opened: kit.Kit, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "field.tif", nuclei_field((1024, 1024), 500).image)
    project = opened.project("field", create=True)
    project.add(tmp_path / "field.tif")
    tuner = Tuner(project, "threshold")
    tuner.wait()
    taken = []
    for sigma in (1.2, 1.4, 1.6, 1.8, 2.0):
        started = time.perf_counter()
        tuner.values = tuner.values | {"sigma": sigma}
        tuner.wait()
        taken.append(time.perf_counter() - started)
    assert min(taken) < 0.3


def test_a_project_without_images_says_so(opened: kit.Kit) -> None:
    with pytest.raises(NothingToRunError):
        Tuner(opened.project("empty", create=True))
    with pytest.raises(InvalidParameterError):
        Tuner(opened.project("plate"), "threshold", sigma=-1)


def test_only_the_newest_counts() -> None:
    newest, done, gate, begun = Newest(), [], threading.Event(), threading.Event()
    newest.submit(lambda: (begun.set(), done.append(gate.wait(20))))  # type: ignore[func-returns-value, arg-type, return-value]
    assert begun.wait(20)
    for number in range(50):
        newest.submit(lambda number=number: done.append(number))
    assert newest.overtaken
    gate.set()
    assert newest.wait(20)
    assert done == [True, 49]


def test_one_that_fails_does_not_hold_up_the_next() -> None:
    newest, done = Newest(), []
    newest.submit(lambda: [][1])
    newest.wait(20)
    newest.submit(lambda: done.append(1))
    newest.wait(20)
    assert done == [1]


# Editor


@pytest.fixture
def editor(opened: kit.Kit, tmp_path: Path) -> Editor:
    """An editor on a run of its own, so that no test sees another's versions."""
    write_plate(tmp_path / "images", [4], first=np.random.default_rng().integers(50))
    project = opened.project(tmp_path.name, create=True)
    project.add(tmp_path / "images", pixel_size_um=0.5)
    run = project.segment("threshold", threshold=100, sigma=0).work_off()
    return Editor(run, next(iter(project)), who="Anna")


def test_merging_in_the_editor_changes_table_and_picture(editor: Editor) -> None:
    told: list[Any] = []
    editor.tell = lambda what, **content: told.append((what, content))  # type: ignore[method-assign]
    editor.selected = [1, 2]
    ask(editor, "edit", do="merge", objects=[1, 2])
    rows = ask(editor, "rows", start=0, count=100)[0]["rows"]
    assert [row[0] for row in rows] == [1, 3, 4]
    assert rows[0][1] == 72
    assert (editor.listed, editor.objects, editor.selected, editor.changes) == (3, 3, [1], ["merge 1, 2"])
    assert ("labels", {"box": [4, 4, 16, 36]}) in told, "only what changed is drawn again"
    ask(editor, "edit", do="undo")
    assert (editor.listed, editor.can_undo, editor.can_redo) == (4, False, True)


def test_saving_in_the_editor_makes_versions(editor: Editor) -> None:
    editor.delete([4])
    assert ask(editor, "save", who="", note="dust")[0] == {"version": 1}
    assert [(each["version"], each["who"], each["objects"]) for each in editor.versions] == [(0, "threshold 1", 4), (1, "Anna", 3)]
    assert editor.changes == []
    with pytest.raises(CorrectionError):
        editor.save()
    editor.draw([(45, 45), (45, 60), (60, 60), (60, 45)])
    assert editor.save("Ben").version == 2
    assert editor._run.result(editor._image).objects == 4


def test_two_editors_do_not_overwrite_each_other(editor: Editor) -> None:
    other = Editor(editor._run, editor._image)
    editor.delete([1])
    other.delete([2])
    editor.save()
    with pytest.raises(CorrectionConflictError):
        other.save()
    with editor._run.kit.database.read() as connection:
        assert len(corrections.history(connection, editor._run.number, editor._image.id)) == 2


@pytest.mark.parametrize(
    "content",
    [
        {"do": "split", "objects": [1], "points": "x"},
        {"do": "split", "objects": [1], "points": [["a", 1]]},
        {"do": "merge", "objects": [1]},
        {"do": "paint", "objects": [77], "points": [[1, 1]], "radius": 3},
        {"do": "delete", "objects": []},
    ],
)
def test_what_the_page_may_not_do_is_told(editor: Editor, content: dict[str, Any]) -> None:
    with pytest.raises(CorrectionError):
        ask(editor, "edit", **content)
    assert editor.objects == 4


# Gallery and queue


def test_the_gallery_lists_pages_and_draws_on_demand(opened: kit.Kit) -> None:
    gallery = Gallery(opened.project("plate"), opened.run(1))
    assert gallery.total == 3
    rows = ask(gallery, "rows", start=0, count=100)[0]["rows"]
    assert {row[1] for row in rows} == {"000.tif", "001.tif", "broken.tif"}
    for number, name, note in rows:
        content, (data,) = ask(gallery, "picture", image=number)
        assert (data[:4] == b"RIFF") == (name != "broken.tif")
        assert content["note"] in ("4 objects", "2 objects") or name == "broken.tif", note
    gallery.selected = rows[0][0]
    assert gallery.image is not None
    assert gallery.image.id == rows[0][0]


def test_the_queue_counts_and_lists(opened: kit.Kit) -> None:
    queue = Queue(opened, opened.run(1))
    assert (queue.counts["done"], queue.counts["total"], queue.counts["objects"]) == (2, 2, 6)
    rows = ask(queue, "rows", status="", start=0, count=100)[0]["rows"]
    assert [(row[1], row[2]) for row in rows] == [("000.tif", "done"), ("001.tif", "done")]
    assert ask(queue, "rows", status="failed", start=0, count=100)[0]["rows"] == []
    assert ask(queue, "rows", status="", start=1, count=1)[0]["rows"][0][1] == "001.tif"
    assert Queue(opened).run == opened.runs(1).items[0].id, "the newest, unless another is asked for"


def test_the_queue_follows_while_jobs_run(opened: kit.Kit, tmp_path: Path) -> None:
    write_plate(tmp_path / "more", [1, 2, 3], first=10)
    project = opened.project("more", create=True)
    project.add(tmp_path / "more")
    run = project.segment("threshold", threshold=100)
    queue = Queue(opened, run)
    told: list[Any] = []
    queue.tell = lambda what, **content: told.append(content)  # type: ignore[method-assign]
    ask(queue, "rows", status="", start=0, count=10)
    assert queue.counts["queued"] == 3
    ask(queue, "look")
    run.work_off()
    wait_until(lambda: queue.counts["done"] == 3)
    wait_until(lambda: not queue._following.is_alive())  # type: ignore[union-attr]
    assert [row[2] for row in told[-1]["rows"]] == ["done"] * 3
    queue.close()


def test_a_list_deeper_than_any_offset_is_reached_by_cursors() -> None:
    asked: list[tuple[int, int]] = []

    def page(limit: int, *, after: str | None = None, offset: int | None = None) -> Page[int]:
        start = int(after) if after is not None else offset or 0
        assert after is not None or start <= DEEPEST_OFFSET
        asked.append((start, limit))
        stop = min(start + limit, 105_000)
        return Page(tuple(range(start, stop)), 105_000, str(stop) if stop < 105_000 else None)

    listing = Listing(page)
    assert listing.rows(104_950, 100) == list(range(104_950, 105_000))
    assert len(asked) < 8
    assert listing.rows(99_990, 10)[-1] == 99_999
    assert listing.rows(105_000, 10) == []


# Painter


def test_strokes_make_a_model_that_is_saved_with_the_project(opened: kit.Kit, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "field.tif", nuclei_field((200, 240), 25, seed=3).image)
    project = opened.project("painted", create=True)
    project.add(tmp_path / "field.tif", pixel_size_um=0.5)
    image = next(iter(project))
    painter = Painter(image, "cells")
    with pytest.raises(TrainingError, match="no model yet"):
        painter.apply()
    painter.train()
    assert painter.failed
    truth = nuclei_field((200, 240), 25, seed=3).truth
    for row, column in np.argwhere(truth > 0)[::150].tolist():
        painter.stroke("object", [(row, column)], 1)
    for row, column in np.argwhere(truth == 0)[::900].tolist():
        painter.stroke("background", [(row, column)], 1)
    painter.train()
    assert not painter.failed, painter.message
    assert painter.objects is not None
    assert painter.objects > 5
    assert Path(painter.model).is_file()
    assert Path(opened.settings.home) in Path(painter.model).parents
    run = painter.apply().work_off()
    assert run.progress().objects == painter.objects, "the run finds what the preview showed"
    again = Painter(image, "cells")
    assert again.painted == painter.painted, "and goes on from there the next day"
    painter.undo()
    assert painter.painted["background"] < again.painted["background"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 200, "   "])
def test_names_that_are_no_classifiers(opened: kit.Kit, name: str) -> None:
    with pytest.raises(TrainingError):
        Painter(image_of(opened), name)


# Pages


@pytest.mark.parametrize("widget", WIDGETS, ids=lambda widget: widget.__name__)
def test_the_page_needs_no_network_and_no_second_file(widget: Any, tmp_path: Path) -> None:
    text = widget._esm if isinstance(widget._esm, str) else str(widget._esm)
    assert not re.search(r"^\s*import\b|\bimport\(|https?://(?!www\.w3\.org)|fetch\(\s*[\"'`]", text, re.MULTILINE)
    assert "export default" in text
    if shutil.which("node"):
        (tmp_path / "page.mjs").write_text(text)
        subprocess.run(["node", "--check", str(tmp_path / "page.mjs")], check=True)


def test_the_style_follows_the_theme() -> None:
    for variable in ("--jp-ui-font-color1", "--jp-layout-color1", "--vscode-foreground", "CanvasText"):
        assert variable in assets.style()


def test_columns_are_named_as_people_do() -> None:
    assert worded("volume_um3") == "volume, µm³"
    assert worded("area_px") == "area, px"
