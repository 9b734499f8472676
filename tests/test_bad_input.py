"""Bad input, from end to end: each fault is named, nothing ends in a stack trace, and the good image beside is always done."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import corpus
import numpy as np
import pytest
import tifffile
from disks import mounted
from plates import QUICK, squares, write_plate
from test_cli import command_in

import segkit
from segkit.database import open_database, upgrade
from segkit.errors import (
    DatabaseError,
    DatabaseNewerError,
    DatabaseReadOnlyError,
    DiskFullError,
    NothingToAddError,
    NotWritableError,
    SegkitError,
)
from segkit.kit import Kit, Run
from segkit.schema import JobStatus
from segkit.settings import load

#: Damage that the header does not show: it is found when the pixels are read, and is that job's reason.
FOUND_WHEN_READ = {
    "corrupt zlib.tif",
    "corrupt png.png",
    "unpacks to more than it says.tif",
    "jpeg larger than its tile.tif",
    "promises more rows.png",
    "corrupt chunk.zarr",
    "empty chunk.zarr",
}
#: Files that are whole, but whose pixels no segmenter can take, and what is said of them.
NO_NUMBERS = {"not a number.tif": "NaN", "infinite.tif": "infinite"}
#: What nobody but a programmer understands.
NO_WORDS = ("\n", "Traceback", "NoneType", "object at 0x", "<class")
#: Images that are whole and have nothing in them.
EMPTY = ("all zero.tif", "saturated.tif")


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    listed: str | None  #: why it could not be registered
    status: JobStatus | None = None
    objects: int | None = None
    reason: str | None = None  #: why it could not be segmented


@dataclass(frozen=True)
class Corpus:
    """Every good and bad file, and what became of it, by name."""

    good: dict[str, Outcome]
    bad: dict[str, Outcome]
    run: Run


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    """Register and segment the whole corpus through the queue, in one project."""
    folder = tmp_path_factory.mktemp("corpus")
    good, bad = corpus.write_good(folder / "good"), corpus.write_bad(folder / "bad")
    # Each has its own pixels, or it would be a duplicate of another one.
    for number, name in enumerate(corpus.AWKWARD_NAMES):
        tifffile.imwrite(good[name], squares(number % 10, number + 1))
    with segkit.open(folder / "home", **QUICK) as kit:
        project = kit.project("everything", create=True)
        project.add([folder / "good", *bad.values()])
        run = project.segment("threshold")
        kit.work_off()
        outcomes = outcomes_of(run)
        yield Corpus(
            {name: outcomes[str(path)] for name, path in good.items()},
            {name: outcomes[str(path)] for name, path in bad.items() if name != "folder.tif"},
            run,
        )


def outcomes_of(run: Run) -> dict[str, Outcome]:
    """Look up what became of every image of a project, by where it lies."""
    images = {image.id: image.record for image in run.kit.project(run.record.project)}
    outcomes = {record.uri: Outcome(record.error) for record in images.values()}
    objects = {result.record.image_id: result.objects for result in run.results()}
    for job in run.jobs(limit=1000).items:
        outcomes[images[job.image_id].uri] = Outcome(None, job.status, objects.get(job.image_id), job.error)
    return outcomes


def test_every_whole_image_is_done(everything: Corpus) -> None:
    wrong = {
        name: outcome
        for name, outcome in everything.good.items()
        if name not in NO_NUMBERS and (outcome.listed, outcome.status, outcome.reason) != (None, JobStatus.DONE, None)
    }
    assert wrong == {}
    assert len(everything.good) > 45
    assert [everything.good[name].objects for name in EMPTY] == [0, 0], "an image of one value has no objects"


def test_every_bad_file_is_named_with_a_reason(everything: Corpus) -> None:
    """Most when they are registered; damage that no header shows, when the pixels are read."""
    wrong = {}
    for name, outcome in everything.bad.items():
        late = name in FOUND_WHEN_READ
        reason = outcome.reason if late else outcome.listed
        in_words = reason and len(reason) > 20 and not any(word in reason for word in NO_WORDS)
        if not in_words or outcome.status is not (JobStatus.FAILED if late else None):
            wrong[name] = outcome
    assert wrong == {}
    assert len(everything.bad) > 70


@pytest.mark.parametrize(("name", "says"), NO_NUMBERS.items())
def test_pixels_that_are_no_numbers_are_a_reason(everything: Corpus, name: str, says: str) -> None:
    outcome = everything.good[name]
    assert outcome.status is JobStatus.FAILED
    assert says.lower() in (outcome.reason or "").lower()


def test_the_counts_add_up(everything: Corpus) -> None:
    state = everything.run.progress()
    whole = len(everything.good) - len(NO_NUMBERS)
    assert state.done == whole
    assert state.failed == len(NO_NUMBERS) + len(FOUND_WHEN_READ)
    unreadable = everything.run.kit.project("everything").record.unreadable
    assert unreadable == len(everything.bad) - len(FOUND_WHEN_READ)


def test_a_folder_named_like_an_image_is_searched(tmp_path: Path) -> None:
    (tmp_path / "folder.tif").mkdir()
    with segkit.open(tmp_path / "home", **QUICK) as kit:
        project = kit.project("p", create=True)
        with pytest.raises(NothingToAddError):
            project.add(tmp_path / "folder.tif")
        tifffile.imwrite(tmp_path / "folder.tif" / "a.tif", squares(1))
        assert project.add(tmp_path / "folder.tif").added == 1


def test_at_the_command_line_no_bad_file_ends_in_a_stack_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`command` refuses every output with a traceback in it."""
    command = command_in(tmp_path, capsys)
    bad = corpus.write_bad(tmp_path / "bad")
    write_plate(tmp_path / "good", [3])
    added = command("add", "plate", "good", "bad", "bad/missing.tif")
    assert added.returncode == 0, added.stderr
    assert "cannot be read" in added.stdout
    assert "corrupt" not in added.stderr, "no library talks over our head"
    listed = command("list", "images", "--project", "plate", "--unreadable", "--limit", "1000")
    assert listed.stdout.count("…") == 0
    assert "10^6 x 10^6.tif" in listed.stdout
    done = command("run", "plate", "threshold")
    assert done.returncode == 3, done.stderr
    assert f"1 done, {len(FOUND_WHEN_READ)} failed" in done.stdout
    assert len(bad) > 40


def test_a_folder_of_ten_thousand_others_is_searched_quickly(tmp_path: Path) -> None:
    folder = tmp_path / "others"
    folder.mkdir()
    for number in range(10_000):
        (folder / f"{number}.txt").touch()
    with segkit.open(tmp_path / "home", **QUICK) as kit:
        project = kit.project("p", create=True)
        start = time.process_time()
        with pytest.raises(NothingToAddError, match="others"):
            project.add(folder)
        write_plate(folder, [2])
        assert project.add(folder).added == 1
        assert time.process_time() - start < 2


def test_ten_thousand_files_that_only_look_like_images_are_listed(tmp_path: Path) -> None:
    folder = write_plate(tmp_path / "pretenders", [2])
    for number in range(1_000):
        (folder / f"fake {number}.tif").write_bytes(b"no image")
    with segkit.open(tmp_path / "home", **QUICK) as kit:
        project = kit.project("p", create=True)
        added = project.add(folder)
        assert (added.added, added.unreadable) == (1, 1_000)
        assert project.images(1, unreadable=True).total == 1_000
        run = project.segment("threshold")
        assert run.wait().record.done == 1


def test_an_unreadable_file_that_was_mended_is_added(tmp_path: Path) -> None:
    folder = write_plate(tmp_path / "plate", [1])
    (folder / "late.tif").write_bytes(b"")
    with segkit.open(tmp_path / "home", **QUICK) as kit:
        project = kit.project("p", create=True)
        assert project.add(folder).unreadable == 1
        tifffile.imwrite(folder / "late.tif", squares(4))
        assert project.add(folder).added == 1
        assert (project.refreshed().record.images, project.refreshed().record.unreadable) == (2, 0)


# The database


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    segkit.open(home).close()
    with sqlite3.connect(home / "segkit.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_future'")
    connection.close()
    with pytest.raises(DatabaseNewerError, match="Upgrade segkit"):
        segkit.open(home)


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Make a mounted disk read-only; as root, permissions alone stop nobody."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


def test_a_read_only_database_is_read_and_refuses_the_rest_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = command_in(tmp_path, capsys)
    plate = write_plate(tmp_path / "plate", [1, 2])
    with mounted(tmp_path / "disk", "size=8m") as disk:
        with segkit.open(disk / "home", **QUICK) as kit:
            project = kit.project("p", create=True)
            project.add(plate)
            project.segment("threshold").wait()
        with read_only(disk):
            for order in (["add", "p", "plate"], ["run", "p", "threshold", "-p", "sigma=2"], ["retry", "1"], ["worker", "--until-idle"]):
                refused = command(*order, "--home", disk / "home")
                assert refused.returncode == 1, (order, refused.stdout)
                assert refused.stderr.startswith("segkit: "), refused.stderr
                assert "read" in refused.stderr or "write" in refused.stderr
            try:
                with segkit.open(disk / "home", **QUICK) as kit:
                    assert kit.project("p").images().total == 2
                    assert kit.run(1).labels(kit.project("p").images().items[0].id).max() == 2
                    with pytest.raises(DatabaseReadOnlyError):
                        kit.project("p").segment("threshold", sigma=3)
            except DatabaseReadOnlyError:
                pass  # SQLite cannot even read a database in WAL mode there, and says so
        with segkit.open(disk / "home", **QUICK) as kit:
            assert kit.run(1).progress().done == 2


def test_a_database_that_goes_away_meanwhile_is_an_error_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = command_in(tmp_path, capsys)
    url = f"sqlite:///{tmp_path}/db/segkit.db"
    assert command("init", SEGKIT_DATABASE_URL=url).returncode == 0
    shutil.rmtree(tmp_path / "db")
    gone = command("status", SEGKIT_DATABASE_URL=url)
    assert (gone.returncode, gone.stderr.startswith("segkit: ")) == (1, True)


# A full disk


def fill(disk: Path) -> Path:
    """Use up the rest of a disk; returns the file to delete."""
    with (disk / "fill").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return disk / "fill"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "size=2m") as disk:
        yield disk


def database_in(folder: Path) -> str:
    """Make a database in a folder; returns its URL."""
    url = f"sqlite:///{folder}/segkit.db"
    with open_database(load(database_url=url), check=False) as database:
        upgrade(database)
    return url


def left(home: Path) -> list[str]:
    """Files of results that are there, published or not."""
    return sorted(str(path.relative_to(home)) for path in (home / "results").rglob("*") if path.is_file())


def test_a_full_disk_fails_the_job_in_words_leaves_nothing_and_is_retried(tmp_path: Path, small_disk: Path) -> None:
    plate = write_plate(tmp_path / "plate", [1, 2, 3])
    with segkit.open(small_disk / "home", database_url=database_in(tmp_path), **QUICK) as kit:
        project = kit.project("p", create=True)
        project.add(plate)
        images = list(project)
        before = project.segment("threshold", images=images[:1])
        before.wait()
        kept = left(small_disk / "home")
        filler = fill(small_disk)
        run = project.segment("threshold")
        with pytest.raises(segkit.errors.RunFailedError, match="disk is full"):
            run.wait()
        for job in run.failures().items:
            assert "The disk is full" in (job.error or "")
            assert job.error_kind == "resource"
        assert left(small_disk / "home") == kept, "nothing half-written, and nothing older lost"
        with pytest.raises(DiskFullError):
            before.export("tiff", small_disk / "out")
        assert not (small_disk / "out").exists()
        filler.unlink()
        assert run.retry() == 3
        run.wait()
        assert (run.progress().done, run.progress().objects) == (3, 6)
        assert before.labels(images[0]).max() == 3


def test_a_full_disk_under_the_database_is_told_in_words(tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = command_in(tmp_path, capsys)
    plate = write_plate(tmp_path / "plate", [1, 2, 3])
    with segkit.open(small_disk / "home", **QUICK) as kit:
        project = kit.project("p", create=True)
        filler = fill(small_disk)
        with pytest.raises(SegkitError, match="full"):
            project.add([plate] + [tmp_path / f"{'x' * 200} {number}.tif" for number in range(2000)])
        refused = command("add", "q", "plate", "--home", small_disk / "home")
        assert (refused.returncode, "full" in refused.stderr) == (1, True), refused.stderr
        filler.unlink()
        assert project.add(plate).added == 3
        assert project.segment("threshold").wait().record.done == 3


def test_results_that_may_not_be_written_say_so(tmp_path: Path, small_disk: Path) -> None:
    plate = write_plate(tmp_path / "plate", [1])
    with segkit.open(small_disk / "home", database_url=database_in(tmp_path), **QUICK) as kit:
        project = kit.project("p", create=True)
        project.add(plate)
        run = project.segment("threshold")
        with read_only(small_disk):
            with pytest.raises(segkit.errors.RunFailedError, match="may not write"):
                run.wait()
            with pytest.raises((NotWritableError, DatabaseError)):
                segkit.open(small_disk / "new home")
        run.retry()
        assert run.wait().record.done == 1


# Every kind of pixel, all in one project


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kit, dict[str, int]]]:
    """Images of four squares in every kind of pixel; gives how many objects were found in each."""
    folder = tmp_path_factory.mktemp("kinds")
    gray = squares(4)
    for dtype in ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float16", "float32", "float64"):
        pixels = gray > 100 if dtype == "bool" else (gray // 2).astype(dtype)
        tifffile.imwrite(folder / f"{dtype}.tif", pixels)
    colours = np.stack([gray] * 3, axis=-1)
    tifffile.imwrite(folder / "rgb.tif", colours, photometric="rgb")
    tifffile.imwrite(folder / "rgb16.tif", colours.astype(np.uint16) * 256, photometric="rgb")
    tifffile.imwrite(
        folder / "rgba.tif", np.dstack([colours, np.full(gray.shape, 255, np.uint8)]), photometric="rgb", extrasamples=["unassalpha"]
    )
    tifffile.imwrite(folder / "5d.tif", np.broadcast_to(gray, (2, 3, 2, *gray.shape)).copy(), imagej=True, metadata={"axes": "TZCYX"})
    with segkit.open(folder / "home", **QUICK) as kit:
        project = kit.project("kinds", create=True)
        project.add(folder)
        run = project.segment("threshold", split=False)
        run.wait()
        assert run.failures().items == ()
        yield kit, {result.record.image.removesuffix(".tif"): result.objects for result in run.results()}


def test_every_kind_of_pixel_gives_the_same_objects(kinds: tuple[Kit, dict[str, int]]) -> None:
    objects = dict(kinds[1])
    assert objects.pop("5d") == 8, "two time points of four"
    assert set(objects.values()) == {4}, objects
    assert len(objects) == 14


@pytest.mark.parametrize("name", ["channel", "z", "level", "images", "priority", "method", "notebook", "self"])
def test_what_is_no_parameter_of_a_segmenter_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    command = command_in(tmp_path, capsys)
    write_plate(tmp_path / "plate", [1])
    command("add", "p", "plate")
    refused = command("run", "p", "threshold", "-p", f"{name}=1")
    assert (refused.returncode, f"{name} is no parameter of a segmenter" in refused.stderr) == (2, True)
