"""Batches: checked before they start, run by papermill in a kernel of their own, few at once, and continued after any death."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from notebook_files import KERNEL, write_notebook
from plates import QUICK, write_plate
from plugins import SLOW, install
from sqlalchemy import update

import segkit
from segkit import batches
from segkit.batches import queue
from segkit.batches.records import Ended, Request
from segkit.database import Database, open_database
from segkit.errors import (
    BatchFailedError,
    NoParametersCellError,
    NotebookError,
    NotebookFolderError,
    NotebookKernelError,
    NotebookParameterError,
    UnknownBatchError,
    UnknownNotebookError,
    UnknownStatusError,
)
from segkit.kit import Kit
from segkit.schema import ErrorKind, JobStatus
from segkit.settings import Settings, as_variables, load

PLAIN = {"poll_seconds": 0.05, "lease_seconds": 5, "beat_seconds": 0.5}


def open_kit(settings: Settings, **arguments: Any) -> Kit:
    url = settings.database_url and settings.database_url.get_secret_value()
    return segkit.open(settings.home, database_url=url, **(QUICK | PLAIN | arguments))


@pytest.fixture
def kit(make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    """A kit in a folder of its own, with notebooks in `notebooks`."""
    monkeypatch.chdir(tmp_path)
    with open_kit(make_settings()) as kit:
        yield kit


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


# Before anything starts


@pytest.mark.parametrize(
    ("notebook", "parameters", "fault", "says"),
    [
        ("ad", {}, UnknownNotebookError, 'Did you mean "add"'),
        ("nowhere/add.ipynb", {}, UnknownNotebookError, "no notebook"),
        ("elsewhere/secret.ipynb", {}, NotebookFolderError, "outside the allowed folders"),
        ("notebooks/../elsewhere/secret.ipynb", {}, NotebookFolderError, "outside the allowed folders"),
        ("notebooks/link.ipynb", {}, NotebookFolderError, "outside the allowed folders"),
        ("bare", {}, NoParametersCellError, 'tagged "parameters"'),
        ("text", {}, NotebookParameterError, "no notebook"),
        ("add", {"siez": 3}, NotebookParameterError, 'Did you mean "size"'),
        ("add", {"a=1\nopen('x')\nb": 3}, NotebookParameterError, "no parameter"),
        ("add", {"size": "3"}, NotebookParameterError, "declared as int"),
        ("add", {"size": True}, NotebookParameterError, "declared as int"),
        ("add", {"sizes": [1, "x"]}, NotebookParameterError, "list[int]"),
        ("add", {"name": 3}, NotebookParameterError, "str"),
        ("add", {"limit": float("nan")}, NotebookParameterError, "finite"),
        ("add", {"anything": {1, 2}}, NotebookParameterError, "cannot be stored"),
        ("foreign", {}, NotebookKernelError, 'kernel "fortran77"'),
        ("homeless", {}, NotebookKernelError, "which kernel"),
    ],
)
def test_what_will_not_do_is_refused_and_recorded(
    kit: Kit, tmp_path: Path, notebook: str, parameters: dict[str, Any], fault: type[NotebookError], says: str
) -> None:
    declared = "size: int = 1\nname: str | None = None\nsizes: list[int] = []\nlimit = 1.0\nanything = None"
    folder = tmp_path / "notebooks"
    write_notebook(folder / "add.ipynb", parameters=declared)
    write_notebook(folder / "bare.ipynb", parameters=None)
    write_notebook(folder / "foreign.ipynb", kernel={**KERNEL, "name": "fortran77"})
    write_notebook(folder / "homeless.ipynb", kernel=None)
    (folder / "text.ipynb").write_text("this is no notebook")
    (folder / "link.ipynb").symlink_to(write_notebook(tmp_path / "elsewhere" / "secret.ipynb"))
    with pytest.raises(fault, match=says.replace("[", r"\[")):
        kit.batch(notebook, parameters)
    (recorded,) = kit.batches().items
    assert (recorded.status, recorded.error_kind, recorded.attempt) == (JobStatus.FAILED, ErrorKind.INPUT, 0)
    assert says in (recorded.error or "")
    assert not kit.find_batch(recorded.id).retry(), "what was refused is asked for anew"
    assert kit.batches_left() == 0


def test_types_are_those_that_the_notebook_declares(tmp_path: Path) -> None:
    cell = """
size: int = 1
scale = 1.5  # how large
name = "x"
kind: "Literal['a', 'b']" = "a"
either: int | str | None = None
several: dict[str, list[float]] = {
    "x": [1.0],  # inside
}  # several of them
old = 3  # type: float a comment
strange: numpy.ndarray = None
worked_out = 3 * 4
"""
    page = batches.read_notebook("n", write_notebook(tmp_path / "n.ipynb", parameters=cell).read_text())
    known = batches.declared(page)
    assert list(known) == ["size", "scale", "name", "kind", "either", "several", "old", "strange", "worked_out"]
    assert (known["scale"].type_name, known["scale"].help, known["several"].help) == ("float", "how large", "several of them")
    assert known["old"].type is float
    good = {"size": 2, "scale": 2, "name": "", "kind": "b", "either": "x", "several": {"a": [1.0, 2.0]}, "strange": 1, "worked_out": "x"}
    checked = batches.parameters.check("n", known, good)
    assert checked == good
    with pytest.raises(NotebookParameterError, match="'a' or 'b'"):
        batches.parameters.check("n", known, {"kind": "c"})


@pytest.mark.parametrize(
    ("declared", "text", "value"),
    [
        ("x: int = 1", "3", 3),
        ("x: float = 1", "3", 3.0),
        ("x: str = ''", "3", "3"),
        ("x: str | None = None", "None", None),
        ("x: str | None = None", "plate", "plate"),
        ("x: bool = True", "false", False),
        ("x: bool = True", "True", True),
        ("x: list[str] = []", "['a', 'b']", ["a", "b"]),
        ("x: str | list[str] = []", "images/*.tif", "images/*.tif"),
        ("x: dict = {}", '{"diameter_um": 9}', {"diameter_um": 9}),
        ("x = None", "9.5", 9.5),
    ],
)
def test_text_is_read_as_the_declared_type(tmp_path: Path, declared: str, text: str, value: Any) -> None:
    page = batches.read_notebook("n", write_notebook(tmp_path / "n.ipynb", parameters=declared).read_text())
    assert batches.parameters.from_text("n", batches.declared(page), {"x": text}) == {"x": value}


def test_text_of_another_type_is_refused(tmp_path: Path) -> None:
    page = batches.read_notebook("n", write_notebook(tmp_path / "n.ipynb", parameters="x: int = 1").read_text())
    with pytest.raises(NotebookParameterError, match="declared as int"):
        batches.parameters.from_text("n", batches.declared(page), {"x": "many"})


def test_a_sweep_is_all_or_nothing(kit: Kit, tmp_path: Path) -> None:
    write_notebook(tmp_path / "notebooks" / "add.ipynb", parameters="size: int = 1")
    with pytest.raises(NotebookParameterError):
        kit.batch_sweep("add", [{"size": 1}, {"size": "x"}])
    assert kit.batches_left() == 0
    swept = kit.batch_sweep("add", [{"size": number} for number in range(5)])
    assert [each.record.parameters["size"] for each in swept] == list(range(5))
    assert kit.batches_left() == kit.batches(status="queued").total == 5


# Running


def test_a_batch_leaves_its_notebook_its_page_and_its_record(kit: Kit, tmp_path: Path) -> None:
    write_notebook(
        tmp_path / "notebooks" / "add.ipynb",
        "import os\nprint('sum', x + 1)",
        "import segkit\nopened = segkit.open()\nprint(opened.settings.home, opened.settings.poll_seconds, os.getcwd())",
        parameters="x: int = 1\nhome: str | None = None",
    )
    queued = kit.batch("add", {"x": 41})
    seen: list[int] = []
    worker = kit.batch_worker(lambda number: seen.append(kit.find_batch(number).record.cell))
    worker.run(lambda: not kit.batches_left())
    done = queued.refreshed()
    record = done.record
    assert (record.status, record.attempt, record.error, record.cell) == (JobStatus.DONE, 1, None, record.cells)
    assert record.cells == 5, "its four cells, and the parameters that were pasted in"
    assert (record.seconds or 0) > 0.1
    assert seen[-1] == 5
    assert len(set(seen)) > 1, "progress was seen on its way"
    text, page = Path(done.notebook).read_text(), Path(done.page).read_text()
    assert "sum 42" in text
    assert "sum 42" in page
    assert f"{kit.settings.home} 0.05 {tmp_path}" in text, "the kernel opens the same home and settings, where the batch was asked for"
    assert json.loads(text)["cells"][2]["metadata"]["tags"] == ["injected-parameters"]
    assert "<script src=" not in page, "it needs no network"
    assert "done" in repr(done)
    assert "add" in done._repr_html_()


def test_a_failing_cell_is_named_and_not_tried_again(kit: Kit, tmp_path: Path) -> None:
    write_notebook(tmp_path / "notebooks" / "bad.ipynb", "y = 2", "1 / (y - 2)", "print('never')")
    with pytest.raises(BatchFailedError, match=r"In \[3\] 1 / \(y - 2\): ZeroDivisionError"):
        kit.batch("bad").wait()
    (record,) = kit.batches().items
    assert (record.status, record.attempt, record.failed_cell, record.error_kind) == (JobStatus.FAILED, 1, 3, ErrorKind.INPUT)
    failed = kit.find_batch(record.id)
    assert "ZeroDivisionError" in Path(failed.notebook).read_text()
    assert "ZeroDivisionError" in Path(failed.page).read_text()


def test_a_kernel_that_dies_is_recorded_as_such_and_tried_again(kit: Kit, tmp_path: Path) -> None:
    flag = tmp_path / "died"
    code = f"""
import os, pathlib, signal
flag = pathlib.Path({str(flag)!r})
if not flag.exists():
    flag.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    write_notebook(tmp_path / "notebooks" / "dies.ipynb", "y = 1", code)
    with pytest.raises(BatchFailedError, match=r"kernel died in In \[3\]"):
        kit.batch("dies", max_attempts=1).wait()
    (first,) = kit.batches().items
    assert (first.error_kind, first.failed_cell) == (ErrorKind.CRASH, 3)
    assert Path(kit.find_batch(first.id).notebook).is_file(), "what it did so far is kept"
    flag.unlink()
    done = kit.batch("dies", max_attempts=2).wait()
    assert (done.status, done.record.attempt, done.record.error) == (JobStatus.DONE, 2, None)


def test_a_time_limit_ends_the_kernel(kit: Kit, tmp_path: Path) -> None:
    write_notebook(tmp_path / "notebooks" / "slow.ipynb", "import time\ntime.sleep(60)")
    with pytest.raises(BatchFailedError, match=r"time limit of 1\.5 s"):
        kit.batch("slow", time_limit_s=1.5).wait()
    (record,) = kit.batches().items
    assert (record.attempt, record.status) == (1, JobStatus.FAILED)
    assert (record.seconds or 0) < 20


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_a_time_limit_is_a_positive_number(kit: Kit, tmp_path: Path, limit: float) -> None:
    write_notebook(tmp_path / "notebooks" / "add.ipynb")
    with pytest.raises(NotebookError, match="time limit"):
        kit.batch("add", time_limit_s=limit)


def test_cancelling_ends_the_kernel_and_all_it_started_and_stopping_gives_back(kit: Kit, tmp_path: Path) -> None:
    mark = tmp_path / "child"
    code = f"""
import pathlib, subprocess, time
child = subprocess.Popen(["sleep", "60"])
pathlib.Path({str(mark)!r}).write_text(str(child.pid))
time.sleep(60)
"""
    write_notebook(tmp_path / "notebooks" / "slow.ipynb", code)
    first, second = kit.batch("slow"), kit.batch("slow")
    with batches.beside(kit.batch_worker()):
        until(lambda: mark.exists() and mark.read_text())
        assert second.refreshed().status == JobStatus.QUEUED, "one for every two cores"
        child = int(mark.read_text())
        assert first.cancel()
        until(lambda: second.refreshed().status == JobStatus.RUNNING)
        assert gone(child)
        assert first.refreshed().status == JobStatus.CANCELLED
    given_back = second.refreshed().record
    assert (given_back.status, given_back.attempt, given_back.max_attempts) == (JobStatus.QUEUED, 1, 4)
    assert not first.cancel(), "it has ended"
    assert second.cancel()


def gone(process: int) -> bool:
    """Whether a process has ended, perhaps not yet collected by its parent."""
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_killed_batch_continues_with_the_images_that_are_not_done(
    make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call of the segmenter leaves a line; images that were done before the kernel was killed are not called for again."""
    site, calls = tmp_path / "site", tmp_path / "calls"
    noting = SLOW.replace("    time.sleep", f"    open({str(calls)!r}, 'a').write(f'{{int(pixels.min())}}\\n')\n    time.sleep")
    install(site, "slow", noting)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.chdir(tmp_path)
    count = 16
    write_plate(tmp_path / "images", [number % 9 + 1 for number in range(count)])
    with open_kit(make_settings(), lease_seconds=1.5, beat_seconds=0.3, threads_per_worker=1, prefetch=1) as kit:
        asked = {
            "project": "plate",
            "images": str(tmp_path / "images"),
            "segmenter": "slow",
            "parameters": {"seconds": 0.15},
            "exports": [],
        }
        batch = kit.batch("run_batch", asked, max_attempts=1)
        with batches.beside(kit.batch_worker()):
            until(lambda: kit.runs().items and kit.run(1).progress().done >= count // 2, 120)
            kernel = kernel_of_this_process()
            os.kill(kernel, signal.SIGKILL)
            until(lambda: not batch.refreshed().record.left)
        failed = batch.refreshed().record
        assert (failed.status, failed.error_kind) == (JobStatus.FAILED, ErrorKind.CRASH)
        assert "The kernel died" in (failed.error or "")
        before = {job.image_id: job.attempt for job in kit.run(1).jobs("done", limit=1000).items}
        first_calls = calls.read_text().split()
        assert count // 2 <= len(before) < count
        assert batch.retry()
        done = batch.wait()
        assert (done.status, done.record.attempt) == (JobStatus.DONE, 2)
        state = kit.run(1).progress()
        assert (state.done, state.failed, kit.runs().total) == (count, 0, 1)
        attempts = {job.image_id: job.attempt for job in kit.run(1).jobs("done", limit=1000).items}
        assert {image: attempts[image] for image in before} == before, "images that were done stay as they are"
        second_calls = calls.read_text().split()[len(first_calls) :]
        assert len(second_calls) == count - len(before), "only the remaining images were segmented"


def kernel_of_this_process() -> int:
    """Process id of the one kernel that runs."""
    kernels = [each for each in psutil.Process().children() if "ipykernel_launcher" in " ".join(each.cmdline())]
    (kernel,) = kernels
    return kernel.pid


# The queue


def request(**arguments: Any) -> Request:
    return Request(**({"notebook": "n", "source": "{}", "parameters": {}, "kernel": "python3", "folder": "/"} | arguments))


def submit(database: Database, count: int, **arguments: Any) -> list[int]:
    with database.write() as connection:
        return [queue.submit(connection, request(), **arguments) for _ in range(count)]


def claim(database: Database, most: int, limit: int = 10, lease: float = 60) -> list[batches.records.Claim]:
    with database.write() as connection:
        return queue.claim(connection, "worker", limit, lease, most)


def test_no_more_than_the_cap_run_over_all_workers(database: Database) -> None:
    numbers = submit(database, 5)
    first = claim(database, most=2)
    assert [each.id for each in first] == numbers[:2]
    assert claim(database, most=2) == [], "another worker finds the cap reached"
    with database.write() as connection:
        assert queue.finish(connection, first[0], Ended())
    assert [each.id for each in claim(database, most=2)] == numbers[2:3]


def test_many_claimants_at_once_keep_the_cap(database: Database) -> None:
    submit(database, 12)
    with ThreadPoolExecutor(6) as pool:
        taken = [each for claims in pool.map(lambda _: claim(database, most=3, limit=2), range(12)) for each in claims]
    assert len(taken) == len({each.id for each in taken}) == 3


def test_higher_priority_is_sooner(database: Database) -> None:
    low, high = submit(database, 1) + submit(database, 1, priority=5)
    assert [each.id for each in claim(database, most=1)] == [high]
    assert low != high


def test_a_lost_attempt_commits_nothing(database: Database) -> None:
    (number,) = submit(database, 1)
    (lost,) = claim(database, most=1, lease=0)
    time.sleep(0.01)
    (mine,) = claim(database, most=1)
    assert (mine.id, mine.attempt) == (number, 2)
    with database.write() as connection:
        assert queue.standing(connection, [lost, mine]) == {number}
        assert queue.standing(connection, [lost]) == set()
        assert not queue.finish(connection, lost, Ended(kind=ErrorKind.INPUT, reason="late"))
        queue.report(connection, lost, 7, 9)
        assert queue.finish(connection, mine, Ended())
        record = batches.record(connection, number)
    assert (record.status, record.attempt, record.cell) == (JobStatus.DONE, 2, 0)


def test_a_batch_that_kills_its_workers_is_given_up(database: Database) -> None:
    (number,) = submit(database, 1, max_attempts=2)
    for _ in range(2):
        assert claim(database, most=1, lease=0)
        time.sleep(0.01)
    assert claim(database, most=1) == []
    with database.read() as connection:
        record = batches.record(connection, number)
    assert (record.status, record.error_kind, record.attempt) == (JobStatus.FAILED, ErrorKind.CRASH, 2)
    assert "Gave up after 2 attempts" in (record.error or "")


def test_what_may_pass_is_tried_again_after_a_wait(database: Database) -> None:
    (number,) = submit(database, 1)
    (first,) = claim(database, most=1)
    with database.write() as connection:
        queue.finish(connection, first, Ended(kind=ErrorKind.INFRASTRUCTURE, reason="the database was away"), retry_seconds=100)
    assert claim(database, most=1) == []
    with database.write() as connection:
        connection.execute(update(queue.batch).values(not_before=queue.now()))
    assert claim(database, most=1)[0].id == number


def test_lists_are_paged_and_faults_are_words(database: Database) -> None:
    numbers = submit(database, 5)
    with database.write() as connection:
        page = batches.page(connection, 2)
        rest = batches.page(connection, 10, after=page.next)
        assert [each.id for each in (*page.items, *rest.items)] == numbers[::-1]
        assert (page.total, rest.next) == (5, None)
        with pytest.raises(UnknownStatusError, match="queued"):
            batches.page(connection, status="waiting")
        with pytest.raises(UnknownBatchError, match="batch 99"):
            batches.record(connection, 99)
        with pytest.raises(UnknownBatchError):
            batches.cancel(connection, 99)


def test_settings_reach_a_child_process_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = load(home="/x", database_url="postgresql://u:p@h/d", cluster_options={"queue": "gpu"}, enable_performance_monitoring=False)
    for name, value in as_variables(chosen).items():
        monkeypatch.setenv(name, value)
    assert load() == chosen


def test_on_postgresql_a_batch_waits_for_a_worker(
    make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_notebook(tmp_path / "notebooks" / "add.ipynb", "print(x)")
    settings = make_settings("postgresql")
    with open_kit(settings) as kit, batches.beside(kit.batch_worker()):
        assert kit.batch("add", {"x": 2}).wait(30).status == JobStatus.DONE
    with open_database(settings) as database, database.read() as connection:
        assert batches.left(connection) == 0
