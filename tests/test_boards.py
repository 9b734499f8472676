"""Boards: what they tell is looked at once for all, and never more often than a few times a second."""

from __future__ import annotations

import time
from pathlib import Path

import segkit
from segkit.boards import ExportsCard, FailuresCard, FoundCard, GalleryCard, JobsCard, PlateCard, QueueCard, RunsCard, board_of
from segkit.boards.cards import PATIENCE_SECONDS
from segkit.boards.looks import MOST_POINTS, Look, kept_look
from segkit.boards.performance import PerformanceCard, by_moment, thinned
from segkit.history import record
from segkit.telemetry import counted
from tests.plates import QUICK, write_plate


def test_a_look_costs_a_handful_of_statements_whatever_the_number_of_runs(tmp_path: Path) -> None:
    with segkit.open(tmp_path / "home", **QUICK) as kit:
        project = kit.project("plate", create=True)
        project.add(write_plate(tmp_path / "plate", [1, 2, 3]))
        board = board_of(kit)
        assert board is board_of(kit), "one for all who watch"
        costs = []
        for sigma in range(5):
            project.segment("threshold", sigma=float(sigma))
            board.look()
            with counted(kit.database.engine) as seen:
                board.look()
            costs.append(seen.count)
        assert max(costs) <= 4
        assert len(set(costs)) == 1


def test_many_commits_are_few_looks(tmp_path: Path) -> None:
    with segkit.open(tmp_path / "home", **QUICK) as kit:
        told: list[int] = []
        stop = board_of(kit).follow(lambda snapshot: told.append(snapshot.summary.runs))
        started = time.monotonic()
        number = 0
        while time.monotonic() - started < 1.0:
            kit.project(f"project {number}", create=True)
            number += 1
        stop()
        assert number > 20
        assert len(told) <= 6


def test_results_are_told_by_image_well_and_object(tmp_path: Path) -> None:
    with segkit.open(tmp_path / "home", **QUICK) as kit:
        project = kit.project("plate", create=True)
        folder = write_plate(tmp_path / "plate", [1, 2, 9])
        for number, well in enumerate(("A01", "A02", "H12")):
            (folder / f"{number:03d}.tif").rename(folder / f"p_{well}_f1.tif")
        project.add(folder, pixel_size_um=1)
        run = project.segment("threshold")
        kit.work_off([run])
        look = kept_look(kit, run.number)
        assert look is kept_look(kit, run.number), "read once"
        assert (look.objects, look.sample.words) == (12, "All 12 objects.")
        assert look.worst[0].objects == 9
        cards = [FoundCard(kit, run.number), PlateCard(kit, run.number), GalleryCard(kit, run.number)]
        for card in cards:
            card.look = look
        found, plate, gallery = (card.facts() for card in cards)
        assert dict(found["lines"])["Images"] == "3 of 3 done, 0 failed"
        assert (plate["rows"], plate["columns"]) == (8, 12)
        assert plate["wells"]["H12"]["objects"] == 9
        assert gallery["total"] == 3
        tiles = cards[2].answers()["pictures"]({"first": 1})["tiles"]
        assert [tile["picture"][:22] for tile in tiles] == ["data:image/png;base64,"] * 2
        said = ExportsCard(kit, run.number).answers()["build"]({"format": "csv"})["said"]
        assert Path(said.removeprefix("Written to ")).is_file()


def test_a_sample_says_of_how_many_it_is(tmp_path: Path, monkeypatch: object) -> None:
    with segkit.open(tmp_path / "home", **QUICK) as kit:
        project = kit.project("plate", create=True)
        project.add(write_plate(tmp_path / "plate", [9, 9]))
        run = project.segment("threshold")
        kit.work_off([run])
        whole = kept_look(kit, run.number)
        many = Look(run, whole.images * 2000)
        assert many.sample.drawn <= MOST_POINTS
        assert many.sample.words == "1,800 of 36,000 objects, drawn at random from 200 images."


def test_charts_are_of_all_processes_and_thinned(tmp_path: Path) -> None:
    with segkit.open(tmp_path / "home", **QUICK) as kit:
        with kit.database.write() as connection:
            for source in ("worker a", "worker b"):
                record(connection, source, {"images.nuclei_total": 60.0, "seconds.nuclei_total": 30.0, "dask_threads": 4})
        facts = PerformanceCard(kit).facts()
        charts = {chart["name"]: chart for chart in facts["charts"]}
        assert charts["images"]["series"][0]["points"][0][1] == 2.0
        assert charts["seconds"]["series"][0]["points"][0][1] == 0.5
        assert charts["threads"]["series"][0]["points"][0][1] == 8
    assert by_moment([], 60) == {}
    points = thinned([(float(second), float(second % 100)) for second in range(3000)])
    assert len(points) <= 300
    assert max(value or 0 for _, value in points) == 99, "peaks stay"


def test_a_database_that_does_not_answer_is_waited_for_once_and_not_long(tmp_path: Path) -> None:
    with segkit.open(tmp_path / "home", db_pool_max=1, **QUICK) as kit:
        cards = [QueueCard(kit), RunsCard(kit), FailuresCard(kit), JobsCard(kit)]
        told: list[str | None] = []
        with kit.database.read():  # the one connection is in use, so that everybody else waits
            started = time.monotonic()
            faults = [card.facts()["fault"] for card in cards]
            assert time.monotonic() - started < 2 * PATIENCE_SECONDS
            assert all("has not answered" in fault for fault in faults)
            stop = board_of(kit).follow(lambda snapshot: told.append(snapshot.fault))
            assert "has not answered" in PerformanceCard(kit).facts()["fault"]
        deadline = time.monotonic() + 5
        while None not in told and time.monotonic() < deadline:
            time.sleep(0.02)
        assert None in told, "it is shown as soon as the database answers"
        assert cards[0].facts()["fault"] is None
        stop()
