"""Reports: their figures are right, and what is in them is text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from plates import QUICK, squares, write_plate
from scipy.ndimage import gaussian_filter, label

import segkit
from segkit import Kit, Run
from segkit.boards.looks import look_at
from segkit.errors import NoResultError, SelectionError
from segkit.synthetic import nuclei_field


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    with segkit.open(tmp_path_factory.mktemp("reports"), **QUICK) as kit:
        yield kit


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images, of which one was changed after it was registered; wells with a time in their names."""
    folder = tmp_path_factory.mktemp("plate")
    write_plate(folder, [5, 5, 5, 0])
    for well, time, count in [("A01", 0, 2), ("A01", 3, 6)]:
        tifffile.imwrite(folder / f"{well}_t{time:02d}.tif", squares(count, 20 + count))
    tifffile.imwrite(folder / "<i>gone.tif", squares(1, 40))
    return folder


@pytest.fixture(scope="module")
def run(kit: Kit, images: Path) -> Run:
    project = kit.project("plate", create=True)
    project.add(images, pixel_size_um=0.5)
    (images / "<i>gone.tif").unlink()
    return project.segment("threshold").wait()


def test_the_report_of_a_run(run: Run) -> None:
    report = segkit.report(run)
    assert "objects: 23" in repr(report.summary)
    assert "failed: 1" in repr(report.summary)
    assert "median: 5.0" in repr(report.summary)
    assert repr(report.counts).splitlines()[1].startswith("A01_t03.tif\t6\t")
    assert "area_um2" in repr(report.distributions)
    assert "<img src=" in report.distributions._repr_html_()
    worst, best = report.worst(3), report.best(2)
    assert worst.tiles[0].title == "<i>gone.tif", "failed ones first"
    assert "003.tif" in [tile.title for tile in worst.tiles], "and the one in which nothing was found"
    assert {tile.title for tile in best.tiles} <= {"000.tif", "001.tif", "002.tif"}
    assert "There is no file" in repr(report.failures)
    page = "".join(piece._repr_html_() for piece in (worst, report.failures, report.provenance))
    assert "<i>gone" not in page
    assert "&lt;i&gt;gone.tif" in page
    assert "segmenter: threshold" in repr(report.provenance)


def test_a_report_of_nothing_says_so(kit: Kit, tmp_path: Path) -> None:
    project = kit.project("waiting", create=True)
    project.add(write_plate(tmp_path / "one", [1]))
    report = segkit.report(project.segment("threshold"))
    assert "still to do: 1" in repr(report.summary)
    for piece in (report.counts, report.distributions, report.failures, report.best(), report.worst()):
        assert piece._repr_html_()


def test_the_least_sure_images_come_first_in_the_run_its_report_and_the_dashboard(kit: Kit, tmp_path: Path) -> None:
    for number, (count, blur) in enumerate([(10, 0), (10, 5), (30, 0)]):
        field = nuclei_field((128, 128), count, touching=0, seed=number)
        tifffile.imwrite(tmp_path / f"{number}.tif", gaussian_filter(field.image, blur))
    project = kit.project("sure", create=True)
    project.add(tmp_path)
    run = project.segment("nuclei").wait()
    objects = run.objects().to_pandas()
    means = objects.groupby("image")["confidence"].mean().sort_values()
    assert means.index[0] == "1.tif", "the blurred one, which is neither the one with most objects nor with fewest"
    assert means.is_unique
    assert [tile.title for tile in run.worst(3).tiles] == list(means.index)
    assert segkit.report(run).worst(1).tiles[0].title == "1.tif"
    assert segkit.report(run).best(1).tiles[0].title == means.index[-1]
    assert [each.name for each in look_at(run).worst] == list(means.index)


def test_two_runs_are_compared(kit: Kit, run: Run) -> None:
    strict = kit.project("plate").segment("threshold", min_area=10_000).wait()
    compared = segkit.compare(run, strict)
    assert len(compared.pairs) == 6
    assert "F1 at IoU 0.5: 0.0" in repr(compared.summary)
    same = segkit.compare(run, run)
    assert "F1 at IoU 0.9: 1.0" in repr(same.summary)
    assert repr(compared.images).splitlines()[1].startswith("A01_t03.tif\t6\t0\t-6"), "the largest difference first"
    assert "<img src=" in compared.counts._repr_html_()


def test_a_run_is_compared_with_truth(run: Run, images: Path, tmp_path: Path) -> None:
    for name in ("000", "001"):
        tifffile.imwrite(tmp_path / f"{name}.labels.tif", label(tifffile.imread(images / f"{name}.tif") > 100)[0].astype(np.int32))
    compared = segkit.compare_with_truth(run, tmp_path)
    assert [(pair.first, pair.second) for pair in compared.pairs] == [(5, 5), (5, 5)]
    assert "F1 at IoU 0.5: 1.0" in repr(compared.summary)
    assert len(compared.alone) == 4
    with pytest.raises(NoResultError, match="truth"):
        segkit.compare_with_truth(run, tmp_path / "empty")


def test_objects_are_followed_over_time_and_wells(run: Run) -> None:
    followed = segkit.follow(run)
    rows = {(row.well, row.time): row.objects for row in followed.table_of.itertuples()}
    assert (rows["A01", 0], rows["A01", 3]) == (2, 6)
    assert followed.size == "area_um2"
    assert "A01\t0\t3\t3.0\t1.0" in repr(followed.growth)
    assert "<img src=" in followed.courses._repr_html_()
    by_number = segkit.follow(run, r"^(?P<time>\d{3})\.tif$").table_of
    assert list(by_number["objects"][:4]) == [0 + 2 + 6 + 5, 5, 5, 0]


def test_time_points_inside_images_count(kit: Kit, tmp_path: Path) -> None:
    series = np.stack([squares(count) for count in (1, 3, 9)])
    tifffile.imwrite(tmp_path / "B02.ome.tif", series, metadata={"axes": "TYX"}, ome=True)
    project = kit.project("series", create=True)
    project.add(tmp_path / "B02.ome.tif")
    followed = segkit.follow(project.segment("threshold").wait())
    assert followed.table_of[["well", "time", "objects"]].to_numpy().tolist() == [["B02", 0, 1], ["B02", 1, 3], ["B02", 2, 9]]


@pytest.mark.parametrize("names", ["(", "no groups"])
def test_an_expression_that_finds_nothing_is_refused(run: Run, names: str) -> None:
    with pytest.raises(SelectionError):
        segkit.follow(run, names)
