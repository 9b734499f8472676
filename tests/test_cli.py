"""The command line as a person or a script meets it: what it prints, its exit codes, and never a stack trace."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile

from segkit import __version__
from segkit import open as opened
from segkit.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Outcome]


SETTINGS = {"SEGKIT_CLUSTER": "threads", "SEGKIT_THREADS_PER_WORKER": "2", "SEGKIT_POLL_SECONDS": "0.1", "COLUMNS": "200"}


def command_in(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Make the command run in a folder, inside this process: what a shell would see, without starting Python each time."""

    def run(*arguments: str | Path, **environment: str) -> Outcome:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "argv", ["segkit", *map(str, arguments)])
            patch.setattr(sys, "stdin", io.StringIO(""))
            for name, value in {**SETTINGS, **environment}.items():
                patch.setenv(name, value)
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
            captured = capsys.readouterr()
        outcome = Outcome(int(ended.value.code or 0), captured.out, captured.err)
        assert "Traceback" not in outcome.stdout + outcome.stderr
        assert "this should not happen" not in outcome.stderr, outcome.stderr
        return outcome

    return run


def write_images(folder: Path) -> Path:
    """Three images with one to three squares, and a file that is none."""
    folder.mkdir()
    for number in range(3):
        pixels = np.full((64, 64), 10 + number, np.uint8)
        for square in range(number + 1):
            pixels[8:20, 4 + 20 * square : 16 + 20 * square] = 200
        tifffile.imwrite(folder / f"{number}.tif", pixels)
    (folder / "broken.tif").write_text("this is no image")
    return folder


@pytest.fixture
def segkit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command, in a folder of its own."""
    return command_in(tmp_path, capsys)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


@pytest.fixture(scope="module")
def plate_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a project "plate" has its images."""
    folder = tmp_path_factory.mktemp("plate")
    with opened(folder / "segkit-data") as kit:
        kit.project("plate", create=True).add(write_images(folder / "images"))
    return folder


@pytest.fixture
def plate(plate_folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in that folder, for tests that change nothing."""
    return command_in(plate_folder, capsys)


def test_version_and_help(segkit: Command) -> None:
    assert segkit("--version").stdout.strip() == f"segkit {__version__}"
    text = segkit("--help").stdout
    commands = ["demo", "init", "add", "run", "worker", "status", "list", "show", "export", "retry", "cancel", "settings", "db", "doctor"]
    for command in commands:
        assert f" {command} " in text


def test_the_whole_path(segkit: Command, images: Path, tmp_path: Path) -> None:
    added = segkit("add", "plate", images, "--pixel-size", "0.5", "--json")
    counts = json.loads(added.stdout)
    assert (counts["added"], counts["unreadable"]) == (3, 1)
    again = json.loads(segkit("add", "plate", images, "--json").stdout)
    assert (again["added"], again["duplicates"]) == (0, 3)

    done = segkit("run", "plate", "threshold", "-p", "split=false", "--json")
    assert done.returncode == 0, done.stderr
    state = json.loads(done.stdout)
    assert (state["done"], state["failed"], state["objects"]) == (3, 0, 6)

    listed = json.loads(segkit("list", "images", "--project", "plate", "--json").stdout)
    assert (len(listed["items"]), listed["total"]) == (4, 4)
    unreadable = json.loads(segkit("list", "images", "--project", "plate", "--unreadable", "--json").stdout)["items"]
    assert [each["name"] for each in unreadable] == ["broken.tif"]
    assert json.loads(segkit("list", "projects", "--json").stdout)["items"][0]["name"] == "plate"
    assert json.loads(segkit("list", "runs", "--json").stdout)["items"][0]["done"] == 3
    assert len(json.loads(segkit("list", "jobs", "--run", "1", "--status", "done", "--json").stdout)["items"]) == 3
    assert json.loads(segkit("status", "--json").stdout)["queue"]["done"] == 3
    assert json.loads(segkit("show", "run", "1", "--json").stdout)["segmenter"] == "threshold"
    assert "threshold" in segkit("status").stdout

    exported = segkit("export", "1", "csv", tmp_path / "objects.csv")
    assert exported.returncode == 0, exported.stderr
    assert segkit("export", "1", "csv", tmp_path / "objects.csv").returncode == 1
    assert segkit("export", "1", "csv", tmp_path / "objects.csv", "--force").returncode == 0


def test_run_without_work_then_worker(segkit: Command, images: Path) -> None:
    segkit("add", "plate", images)
    queued = json.loads(segkit("run", "plate", "threshold", "--no-work", "--json").stdout)
    assert queued["queued"] == 3
    worked = segkit("worker", "--until-idle")
    assert worked.returncode == 0, worked.stderr
    assert "3 images done" in worked.stdout


def test_some_failed_is_exit_code_3_with_reasons(segkit: Command, images: Path) -> None:
    segkit("add", "plate", images)
    (images / "1.tif").unlink()
    done = segkit("run", "plate", "threshold", SEGKIT_RETRY_SECONDS="0")
    assert done.returncode == 3
    assert "1.tif" in done.stdout
    assert "segkit retry 1" in done.stdout
    assert "1 jobs queued" in segkit("retry", "1").stdout
    assert "1 jobs cancelled" in segkit("cancel", "1").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "plate", "nucleus"], 1, 'Did you mean "nuclei"'),
        (["run", "plate", "threshold", "-p", "sigmo=2"], 1, 'Did you mean "sigma"'),
        (["run", "plate", "threshold", "-p", "sigma=-2"], 1, "sigma"),
        (["run", "plate", "threshold", "-p", "sigma"], 2, "name=value"),
        (["run", "plaet", "threshold"], 1, 'Did you mean "plate"'),
        (["add", "plate", "nowhere"], 1, "1 cannot be read"),
        (["add", "plate", "images", "--pixel-size", "0"], 1, "positive"),
        (["add", "plate", "images", "--pixel-size", "-1"], 1, "positive"),
        (["add", "plate", "images", "--pixel-size", "nan"], 1, "positive"),
        (["show", "run", "77"], 1, "no run 77"),
        (["show", "run", "x"], 2, "number"),
        (["show", "planet", "x"], 2, "none of"),
        (["list", "planets"], 2, "none of"),
        (["list", "jobs"], 2, "--run"),
        (["list", "projects", "--limit", "0"], 1, "limit"),
        (["list", "projects", "--after", "made-up"], 1, "cursor"),
        (["export", "1", "coca", "out"], 1, "run 1"),
        (["retry", "5"], 1, "no run 5"),
        (["frobnicate"], 2, "No such command"),
        (["settings"], 0, "SEGKIT_HOME"),
        (["remove", "plate"], 1, "--yes"),
    ],
)
def test_faults_are_words_and_codes(plate: Command, arguments: list[str], code: int, says: str) -> None:
    done = plate(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["a b", "it's", 'say "hi"', "naïve 🔬", "-dash", "new\nline", "password=hunter2"])
def test_names_of_every_kind(segkit: Command, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "named"
    folder.mkdir()
    pixels = np.zeros((32, 32), np.uint8)
    pixels[8:20, 8:20] = 200
    tifffile.imwrite(folder / f"{name}.tif", pixels)
    added = segkit("add", "--json", "--", name.strip("\n").replace("\n", " ") or "x", folder)
    assert json.loads(added.stdout)["added"] == 1, added.stderr
    done = segkit("run", "--json", "--", name.replace("\n", " "), "threshold")
    assert json.loads(done.stdout)["done"] == 1, done.stderr
    assert segkit("list", "jobs", "--run", "1").returncode == 0
    assert segkit("export", "1", "coco", tmp_path / "out").returncode == 0


def test_a_database_that_is_newer_older_or_broken(segkit: Command, images: Path, tmp_path: Path) -> None:
    segkit("init")
    path = tmp_path / "segkit-data" / "segkit.db"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'from_the_future'")
    newer = segkit("status")
    assert (newer.returncode, "newer segkit" in newer.stderr) == (1, True)
    path.write_bytes(b"not a database at all" * 100)
    broken = segkit("status")
    assert broken.returncode == 1
    shutil.rmtree(tmp_path / "segkit-data")
    gone = segkit("status", SEGKIT_DATABASE_URL=f"sqlite:///{tmp_path}/none.db")
    assert (gone.returncode, "segkit" in gone.stderr) == (1, True)
    unreachable = segkit("status", SEGKIT_DATABASE_URL="postgresql://nobody:secret@127.0.0.1:1/none")
    assert unreachable.returncode == 1
    assert "secret" not in unreachable.stderr


def test_db_commands(segkit: Command) -> None:
    assert segkit("init").returncode == 0
    assert segkit("db", "check").returncode == 0
    revision = segkit("db", "current").stdout.strip()
    assert segkit("db", "downgrade", "base", "--yes").returncode == 0
    assert segkit("db", "check").returncode == 1
    assert segkit("db", "upgrade").returncode == 0
    assert segkit("db", "current").stdout.strip() == revision != "none"
    assert segkit("db", "downgrade", "base").returncode == 1, "without a terminal it needs --yes"


def test_removing_a_project_asks_first(segkit: Command, images: Path, tmp_path: Path) -> None:
    segkit("add", "plate", images)
    segkit("run", "plate", "threshold")
    assert list((tmp_path / "segkit-data" / "results").glob("1/*"))
    assert segkit("remove", "plate").returncode == 1
    assert segkit("remove", "plate", "--yes").returncode == 0
    assert not list((tmp_path / "segkit-data" / "results").glob("1/*"))
    assert len(list(images.iterdir())) == 4
    assert json.loads(segkit("list", "projects", "--json").stdout)["items"] == []


def test_doctor_says_what_to_do(segkit: Command) -> None:
    before = segkit("doctor", "--no-cluster", "--json")
    assert before.returncode == 1
    (fault,) = [each for each in json.loads(before.stdout) if each["state"] == "fault"]
    assert (fault["part"], "segkit" in fault["advice"]) == ("database", True)
    segkit("init")
    after = segkit("doctor", "--json")
    assert after.returncode == 0, after.stdout
    assert {"versions", "disk", "memory", "database", "sqlite", "cache", "kernels", "cluster"} <= {
        each["part"] for each in json.loads(after.stdout)
    }


def test_a_closed_pipe_is_silent(segkit: Command, tmp_path: Path) -> None:
    command = f"{sys.executable} -m segkit settings | head -n 1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_starting_loads_nothing_heavy() -> None:
    """What makes `import segkit` and `segkit --help` instant: heavy packages wait until they are used."""
    heavy = ["numpy", "dask", "distributed", "sqlalchemy", "pydantic", "numba", "pandas"]
    look = f"import sys, segkit, segkit.cli; print(*(name for name in {heavy} if name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.strip() == ""
