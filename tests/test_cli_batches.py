"""The commands of batches and schedules as a person or a script meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from notebook_files import write_notebook
from test_cli import Command, command_in


@pytest.fixture
def segkit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command, in a folder with two notebooks."""
    write_notebook(tmp_path / "notebooks" / "add.ipynb", "print('sum', size + 1)", parameters="size: int = 1  # how many\nname: str = ''")
    write_notebook(tmp_path / "notebooks" / "bad.ipynb", "1 / 0")
    write_notebook(tmp_path / "notebooks" / "bare.ipynb", parameters=None)
    return command_in(tmp_path, capsys)


def test_a_batch_from_the_command_line(segkit: Command) -> None:
    done = segkit("batch", "run", "add", "-p", "size=41", "-p", "name=7", "--json")
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert (record["status"], record["parameters"]) == ("done", {"size": 41, "name": "7"})
    assert "sum 42" in Path(record["page"]).read_text()
    shown = json.loads(segkit("batch", "show", "1", "--json").stdout)
    assert (shown["status"], shown["executed"], shown["seconds"] > 0) == ("done", record["executed"], True)
    assert "add" in segkit("batch", "show", "1").stdout
    assert "had ended" in segkit("batch", "cancel", "1").stdout
    assert "has not failed" in segkit("batch", "retry", "1").stdout


def test_a_failing_batch_is_exit_code_3_with_its_cell(segkit: Command) -> None:
    failed = segkit("batch", "run", "bad")
    assert failed.returncode == 3
    assert "In [2] 1 / 0: ZeroDivisionError" in failed.stdout
    assert "queued again" in segkit("batch", "retry", "1").stdout
    worked = segkit("worker", "--until-idle", "--json")
    assert json.loads(worked.stdout)["failed_batches"] == 1


def test_a_sweep_queues_one_batch_for_each_set(segkit: Command, tmp_path: Path) -> None:
    sets = tmp_path / "sets.json"
    sets.write_text('[{"size": 1}, {"size": 2}, {"size": 3}]')
    queued = json.loads(segkit("batch", "run", "add", "--sweep", sets, "-p", "name=x", "--no-work", "--json").stdout)
    assert [each["parameters"] for each in queued] == [{"size": size, "name": "x"} for size in (1, 2, 3)]
    assert json.loads(segkit("batch", "list", "--status", "queued", "--json").stdout)["total"] == 3
    assert "is cancelled" in segkit("batch", "cancel", "2").stdout
    sets.write_text("{}")
    assert "list of parameter sets" in segkit("batch", "run", "add", "--sweep", sets).stderr


def test_notebooks_and_their_parameters_are_listed(segkit: Command) -> None:
    found = json.loads(segkit("batch", "notebooks", "--json").stdout)
    assert found["add"][0] == {"name": "size", "type": "int", "default": "1", "help": "how many"}
    assert {"run_batch", "report_run"} <= set(found)
    assert "bare" not in found


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["batch", "run", "addd"], 1, 'Did you mean "add"'),
        (["batch", "run", "bare"], 1, 'tagged "parameters"'),
        (["batch", "run", "add", "-p", "siz=1"], 1, 'Did you mean "size"'),
        (["batch", "run", "add", "-p", "size=many"], 1, "declared as int"),
        (["batch", "run", "add", "-p", "size"], 2, "name=value"),
        (["batch", "run", "add", "--kernel", "fortran77"], 1, "fortran77"),
        (["batch", "run", "add", "--time-limit", "-1"], 1, "time limit"),
        (["batch", "run", "add", "--notify", "planet://x"], 1, "cannot be notified"),
        (["batch", "show", "7"], 1, "no batch 7"),
        (["batch", "list", "--status", "waiting"], 1, "no status"),
        (["schedule", "add", "n", "0 0 31 2 *", "add"], 1, "never fires"),
        (["schedule", "add", "n", "* * * * *", "addd"], 1, 'Did you mean "add"'),
        (["schedule", "add", "n", "* * * * *", "add", "--zone", "Mars"], 1, "no time zone"),
        (["schedule", "add", "n", "* * * * *", "add", "-p", "size=x"], 1, "declared as int"),
        (["schedule", "next", "n"], 1, "no schedule"),
        (["schedule", "load", "nowhere.toml"], 1, "cannot be read"),
    ],
)
def test_faults_are_words_and_codes(segkit: Command, arguments: list[str], code: int, says: str) -> None:
    done = segkit(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stdout + done.stderr


def test_a_schedule_from_the_command_line(segkit: Command) -> None:
    added = segkit("schedule", "add", "nightly", "30 2 * * *", "add", "-p", "size=3", "--zone", "Europe/Berlin")
    assert added.returncode == 0, added.stderr
    assert "02:30 CE" in added.stdout
    assert len(segkit("schedule", "next", "nightly", "--count", "3").stdout.splitlines()) == 3
    (listed,) = json.loads(segkit("schedule", "list", "--json").stdout)
    assert (listed["name"], listed["parameters"]) == ("nightly", {"size": 3})
    assert "paused" in segkit("schedule", "pause", "nightly").stdout
    assert "Next" in segkit("schedule", "resume", "nightly").stdout
    assert "batch 1" in segkit("schedule", "run-now", "nightly").stdout
    assert "not ended" in segkit("schedule", "run-now", "nightly").stderr
    assert segkit("schedule", "add", "never", "0 0 31 2 *", "add").returncode == 1
    assert "never fires" in segkit("schedule", "list").stdout, "it is listed with its fault"
    assert segkit("schedule", "remove", "nightly").returncode == 1, "without a terminal it needs --yes"
    assert segkit("schedule", "remove", "nightly", "--yes").returncode == 0


@pytest.mark.slow
def test_the_scheduler_reads_its_file_and_ends_in_order(segkit: Command, tmp_path: Path) -> None:
    assert segkit("init").returncode == 0
    (tmp_path / "schedule.toml").write_text('[often]\ncron = "* * * * *"\nnotebook = "add"\n')
    command = [sys.executable, "-m", "segkit", "scheduler", "--file", "schedule.toml"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
    deadline = time.monotonic() + 120
    while "often" not in segkit("schedule", "list", "--json").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert b"batches queued" in out
