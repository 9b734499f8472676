"""Corrections by hand: what is done to labels, undone and redone; versions that replace nothing; measurements that follow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tifffile
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st
from plates import QUICK, write_plate

from segkit import corrections, kit, results
from segkit.corrections import Correction, Edits
from segkit.corrections.session import checked_region
from segkit.errors import (
    CorrectionConflictError,
    CorrectionError,
    NoResultError,
    ResultCorruptError,
    UnknownImageError,
    UnknownVersionError,
)
from segkit.measure import measure
from segkit.settings import Settings

LABELS = np.zeros((40, 60), np.int32)
LABELS[5:15, 5:15] = 1
LABELS[5:15, 16:26] = 2
LABELS[20:30, 40:60] = 7


def edits(**options: Any) -> Edits:
    return Edits(LABELS.copy(), **{"next_label": 8, **options})


# What is done to labels


def test_merged_objects_have_the_first_ones_number() -> None:
    done = edits()
    done.merge([2, 1])
    assert set(np.unique(done.labels)) == {0, 2, 7}
    assert (done.labels == 2).sum() == 200


def test_a_line_cuts_an_object_in_two() -> None:
    done = edits()
    change = done.split(7, [(18, 47.5), (32, 47.5)])
    assert change.made == (7, 8)
    assert np.array_equal(done.labels > 0, LABELS > 0), "no pixel is lost"
    sizes = [(done.labels == label).sum() for label in change.made]
    assert sizes[0] > sizes[1] > 60, "the larger piece keeps the number"


def test_a_slanting_line_leaves_no_bridge() -> None:
    done = edits()
    assert len(done.split(7, [(19, 43), (31, 57)]).made) == 2


def test_a_line_that_ends_inside_cuts_nothing() -> None:
    done = edits()
    with pytest.raises(CorrectionError, match="right across"):
        done.split(7, [(18, 50), (25, 50)])
    assert np.array_equal(done.labels, LABELS)
    assert not done.changes


def test_a_drawn_object_leaves_others_alone() -> None:
    done = edits()
    done.draw([(3, 3), (3, 20), (25, 20), (25, 3)])
    assert np.array_equal(done.labels[LABELS > 0], LABELS[LABELS > 0])
    assert done.labels[20, 10] == 8
    with pytest.raises(CorrectionError, match="no background"):
        done.draw([(6, 6), (6, 9), (9, 9)])


def test_brushes_add_and_take_away() -> None:
    done = edits()
    done.paint(1, [(17, 10), (19, 10)], 2)
    assert done.labels[18, 10] == 1
    done.erase([(10, 10), (10, 22)], 1, label=2)
    assert done.labels[10, 10] == 1
    assert done.labels[10, 20] == 0
    done.erase([(10, 10)], 1)
    assert done.labels[10, 10] == 0


def test_what_reaches_beyond_the_region_stays() -> None:
    done = edits(locked={7})
    for attempt in (lambda: done.merge([1, 7]), lambda: done.delete([7]), lambda: done.paint(7, [(25, 38)], 3)):
        with pytest.raises(CorrectionError, match="Object 7 reaches beyond"):
            attempt()
    done.erase([(25, 20), (25, 59), (10, 10)], 3)
    assert (done.labels == 7).sum() == 200
    assert done.labels[10, 10] == 0


@pytest.mark.parametrize("objects", [[1], [1, 1], [1, 99], [0, 1], [-1, 2]])
def test_what_cannot_be_merged(objects: list[int]) -> None:
    done = edits()
    with pytest.raises(CorrectionError):
        done.merge(objects)
    assert not done.changes


@pytest.mark.parametrize("line", [[], [[1]], "line", [[float("nan"), 1], [2, 3]], [[1e12, 0], [0, 0]], None])
def test_lines_that_are_none(line: Any) -> None:
    with pytest.raises(CorrectionError):
        edits().split(7, line)


STEPS = st.one_of(
    st.tuples(st.just("merge"), st.lists(st.sampled_from([1, 2, 7, 8, 9]), min_size=2, max_size=3)),
    st.tuples(st.just("delete"), st.lists(st.sampled_from([1, 2, 7, 8]), min_size=1, max_size=2)),
    st.tuples(st.just("split"), st.sampled_from([1, 2, 7])),
    st.tuples(st.just("erase"), st.integers(0, 59)),
    st.tuples(st.just("draw"), st.integers(0, 30)),
)


def perform(done: Edits, step: tuple[str, Any]) -> None:
    kind, what = step
    calls = {
        "merge": lambda: done.merge(what),
        "delete": lambda: done.delete(what),
        "split": lambda: done.split(what, [(0, 10), (39, 52)]),
        "erase": lambda: done.erase([(0, what), (39, what)], 2),
        "draw": lambda: done.draw([(30, what), (39, what), (39, what + 8), (30, what + 8)]),
    }
    with contextlib.suppress(CorrectionError):
        calls[kind]()


@how(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=12))
def test_everything_can_be_undone_and_done_again(steps: list[tuple[str, Any]]) -> None:
    done = edits()
    seen = [done.labels.copy()]
    for step in steps:
        before = len(done.changes)
        perform(done, step)
        if len(done.changes) > before:
            seen.append(done.labels.copy())
    for state in reversed(seen[:-1]):
        done.undo()
        assert np.array_equal(done.labels, state)
    assert not done.can_undo
    for state in seen[1:]:
        done.redo()
        assert np.array_equal(done.labels, state)
    assert not done.can_redo
    changed = set(np.unique(LABELS[done.labels != LABELS])) | set(np.unique(done.labels[done.labels != LABELS]))
    assert changed - {0} <= done.touched


def test_a_new_change_forgets_what_was_undone() -> None:
    done = edits()
    done.delete([1])
    done.undo()
    done.delete([2])
    done.redo()
    assert [str(change) for change in done.changes] == ["delete 2"]


# Versions


@pytest.fixture
def plate(database_settings: Settings, tmp_path: Path) -> Iterator[kit.Run]:
    """A finished run over two images, of 4 and 2 squares, on each database."""
    chosen = database_settings.model_copy(update=QUICK)
    write_plate(tmp_path / "images", [4, 2])
    with kit.Kit(chosen, kit.open_database(chosen)) as opened:
        project = opened.project("plate", create=True)
        project.add(tmp_path / "images", pixel_size_um=0.5)
        run = project.segment("threshold", threshold=100, sigma=0)
        run.work_off()
        yield run


def first(run: kit.Run) -> kit.Result:
    return min(run.results(), key=lambda result: -result.objects)


def correct(run: kit.Run, **options: Any) -> Correction:
    return Correction(run.kit.database, run.kit.settings, run.number, first(run).image.id, **options)


def versions(run: kit.Run, image_id: int) -> list[corrections.Version]:
    with run.kit.database.read() as connection:
        return corrections.history(connection, run.number, image_id)


def test_a_correction_is_a_new_version_and_the_run_shows_it(plate: kit.Run) -> None:
    before = first(plate)
    old_labels, old_path = before.labels(), before.path
    correction = correct(plate)
    correction.edits.merge([1, 2])
    correction.edits.delete([4])
    saved = correction.save("Anna", "one cell, not two")
    after = plate.result(before.image)
    assert (saved.version, saved.who, saved.note, after.objects) == (1, "Anna", "one cell, not two", 2)
    assert saved.changes == [{"kind": "merge", "objects": [1, 2], "made": []}, {"kind": "delete", "objects": [4], "made": []}]
    assert set(np.unique(after.labels())) == {0, 1, 3}
    assert plate.progress().objects == 2 + 2, "the run's counter follows"
    assert plate.objects().num_rows == 4, "and so do its tables"
    results.verify(after.path, saved.checksum)
    # Nothing was overwritten.
    assert np.array_equal(results.read_labels(old_path), old_labels)
    original, new = versions(plate, before.image.id)
    assert (original.version, original.who, original.objects, original.changes) == (0, "threshold 1", 4, [])
    assert results.locate(plate.kit.settings.home, original.path) == old_path
    assert new == saved
    assert new.created_at >= original.created_at


def test_measurements_follow_as_if_the_whole_had_been_measured(plate: kit.Run) -> None:
    correction = correct(plate)
    correction.edits.merge([1, 2])
    correction.edits.split(4, [(20, 10.5), (40, 10.5)])
    correction.edits.undo()
    correction.edits.erase([(6, 6)], 2)
    correction.edits.draw([(45, 45), (45, 60), (60, 60), (60, 45)])
    image = first(plate).image
    expected = measure(correction.edits.labels, image.pixels(), pixel_size_um=0.5)
    assert_same(correction.table(), expected)
    assert correction.objects == expected.num_rows
    correction.save()
    result = plate.result(image)
    assert_same(result.table(), expected)
    assert result.summary["area_um2"]["max"] == pytest.approx(max(expected["area_um2"].to_pylist()))
    assert result.summary["density_per_mm2"] is not None


def assert_same(one: pa.Table, other: pa.Table) -> None:
    assert one.column_names == other.column_names
    for name in other.column_names:
        np.testing.assert_allclose(one[name].to_numpy().astype(float), other[name].to_numpy().astype(float), err_msg=name)


def test_who_saves_second_is_told(plate: kit.Run) -> None:
    anna, ben = correct(plate), correct(plate)
    anna.edits.delete([1])
    ben.edits.delete([2])
    anna.save("Anna")
    with pytest.raises(CorrectionConflictError, match="by Anna"):
        ben.save("Ben")
    assert len(versions(plate, anna.image_id)) == 2
    left = [entry.name for entry in Path(plate.kit.settings.home, "results", str(plate.number)).iterdir()]
    assert len(left) == 3, "Ben's files are gone"


def test_one_can_go_on_correcting_and_go_back(plate: kit.Run) -> None:
    correction = correct(plate)
    correction.edits.delete([1])
    correction.save("Anna")
    assert not correction.edits.changes
    correction.edits.delete([2])
    correction.save("Anna")
    image = correction.image_id
    assert plate.result(image).objects == 2
    chosen = plate.kit
    restored = corrections.restore(chosen.database, plate.number, image, 0, "Ben", "as it was")
    assert (restored.version, restored.objects) == (3, 4)
    assert plate.result(image).objects == 4
    assert [each.objects for each in versions(plate, image)] == [4, 3, 2, 4]
    with pytest.raises(UnknownVersionError):
        corrections.restore(chosen.database, plate.number, image, 9)


def test_sweeping_keeps_every_version(plate: kit.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    correction = correct(plate)
    correction.edits.delete([1])
    correction.save()
    swept = results.sweep(plate.kit.settings.home, kept(plate), older_than_s=-3600)
    assert swept == []
    for each in versions(plate, correction.image_id):
        results.verify(results.locate(plate.kit.settings.home, each.path), each.checksum)


def kept(run: kit.Run) -> set[str]:
    with run.kit.database.read() as connection:
        return results.paths(connection)


def test_a_version_that_is_damaged_is_not_shown(plate: kit.Run) -> None:
    correction = correct(plate)
    correction.edits.delete([1])
    saved = correction.save()
    path = Path(results.locate(plate.kit.settings.home, saved.path)) / "objects.parquet"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(ResultCorruptError):
        correct(plate)


def test_nothing_changed_is_nothing_to_save(plate: kit.Run) -> None:
    correction = correct(plate)
    correction.edits.delete([1])
    correction.edits.undo()
    with pytest.raises(CorrectionError, match="nothing to save"):
        correction.save()
    with pytest.raises(UnknownImageError):
        Correction(plate.kit.database, plate.kit.settings, plate.number, 10_000)
    plate.retry(done_too=True)
    with pytest.raises(NoResultError):
        Correction(plate.kit.database, plate.kit.settings, plate.number, correction.image_id)


def test_segmenting_again_starts_anew_and_keeps_the_versions(plate: kit.Run) -> None:
    correction = correct(plate)
    correction.edits.delete([1])
    correction.save("Anna")
    plate.retry(done_too=True)
    plate.work_off()
    assert plate.result(correction.image_id).objects == 4
    again = correct(plate)
    again.edits.delete([2])
    again.save("Ben")
    assert [each.who for each in versions(plate, again.image_id)][-1] == "Ben"
    assert plate.result(again.image_id).objects == 3
    assert plate.progress().objects == 5


def test_a_deleted_project_leaves_no_version(plate: kit.Run) -> None:
    correction = correct(plate)
    correction.edits.delete([1])
    saved = correction.save()
    plate.kit.project("plate").delete(confirm=True)
    assert versions(plate, saved.image_id) == []
    assert not Path(results.locate(plate.kit.settings.home, saved.path)).exists()


# Large images and series


@pytest.fixture
def open_kit(tmp_path: Path) -> Iterator[kit.Kit]:
    with kit.open(tmp_path / "home", **QUICK) as opened:
        yield opened


def segmented(opened: kit.Kit, pixels: np.ndarray, path: Path, **options: Any) -> kit.Run:
    tifffile.imwrite(path, pixels, **options)
    project = opened.project("one", create=True)
    project.add(path)
    run = project.segment("threshold", threshold=100, sigma=0, split=False)
    return run.work_off()


def test_a_region_of_a_large_image_is_corrected_and_the_rest_stays(open_kit: kit.Kit, tmp_path: Path) -> None:
    pixels = np.zeros((1500, 2600), np.uint8)
    pixels[::40] = 0
    for row in range(10, 1490, 50):
        for column in range(10, 2590, 50):
            pixels[row : row + 20, column : column + 20] = 200
    run = segmented(open_kit, pixels, tmp_path / "large.tif")
    before = first(run)
    old = before.labels()
    correction = correct(run, region=(500, 1015, 400, 300))
    assert correction.edits.locked, "some squares are cut by the region's edge"
    with pytest.raises(CorrectionError, match="reaches beyond"):
        correction.edits.delete([next(iter(correction.edits.locked))])
    free = sorted(set(np.unique(correction.edits.labels)) - {0} - correction.edits.locked)[:2]
    correction.edits.merge(free)
    correction.save("Anna")
    new = run.result(before.image).labels()
    expected = old.copy()
    expected[old == free[1]] = free[0]
    assert np.array_equal(new, expected)
    assert_same(run.result(before.image).table(), measure(expected, pixels))
    with pytest.raises(CorrectionError, match="lies inside"):
        correction.move((1400, 0, 400, 300))
    correction.move((0, 0, 200, 200))
    assert correction.edits.labels.shape == (200, 200)


def test_one_time_point_is_corrected_and_the_others_stay(open_kit: kit.Kit, tmp_path: Path) -> None:
    pixels = np.zeros((3, 64, 64), np.uint8)
    pixels[:, 5:15, 5:15] = pixels[:, 30:40, 30:40] = 200
    run = segmented(open_kit, pixels, tmp_path / "series.tif", photometric="minisblack", metadata={"axes": "TYX"})
    correction = correct(run, time=1)
    correction.edits.delete([1])
    correction.save()
    result = first(run)
    assert [sorted(set(np.unique(frame)) - {0}) for frame in result.labels()] == [[1, 2], [2], [1, 2]]
    assert list(zip(result.table()["time"].to_pylist(), result.table()["label"].to_pylist(), strict=True)) == [
        (0, 1), (0, 2), (1, 2), (2, 1), (2, 2),
    ]  # fmt: skip


def test_volumes_are_refused_in_words(open_kit: kit.Kit, tmp_path: Path) -> None:
    pixels = np.zeros((3, 64, 64), np.uint8)
    pixels[:, 5:15, 5:15] = 200
    tifffile.imwrite(tmp_path / "stack.tif", pixels, photometric="minisblack", metadata={"axes": "ZYX"})
    project = open_kit.project("one", create=True)
    project.add(tmp_path / "stack.tif", pixel_size_um=0.5, z_step_um=1)
    run = project.segment("nuclei", z="volume").work_off()
    with pytest.raises(CorrectionError, match="Volumes"):
        correct(run)


@pytest.mark.parametrize("region", [(0, 0, 0, 10), (-1, 0, 10, 10), (0, 0, 3000, 10), (95, 0, 10, 10)])
def test_regions_that_are_none(region: tuple[int, int, int, int]) -> None:
    with pytest.raises(CorrectionError):
        checked_region((100, 4000), region)
