"""The doctor: every part is looked at, every fault has advice, and nothing it finds is raised."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from disks import unwritable
from plugins import install

from segkit import backups, cluster, jobs, segmenters
from segkit.database import open_database
from segkit.doctor import Check, examine, machine, state
from segkit.kit import Project
from segkit.schema import ErrorKind
from segkit.settings import Settings, load

PARTS = ["versions", "settings", "disk", "file system", "permissions", "memory", "database", "sqlite", "clock", "cache", "port", "front"]
PARTS += ["segmenters", "kernels", "workers", "failures", "orphans", "backup"]


def checks(settings: Settings, **options: bool) -> dict[str, Check]:
    """Examine, and check what holds of every finding."""
    found = {check.part: check for check in examine(settings, **({"with_cluster": False} | options))}
    for check in found.values():
        assert check.state in ("ok", "note", "fault")
        assert check.detail
        assert check.advice or check.state == "ok", "whoever is told of a fault is told what to do"
    return found


@pytest.fixture
def healthy(tmp_path: Path) -> Settings:
    """Settings whose database is made."""
    settings = load(home=str(tmp_path / "home"), cluster="threads", threads_per_worker=1)
    open_database(settings).close()
    return settings


def test_a_healthy_home_has_no_fault(healthy: Settings) -> None:
    found = checks(healthy, with_cluster=True)
    assert list(found) == [*PARTS, "cluster"]
    assert not [check for check in found.values() if check.state == "fault"]
    assert found["cluster"].detail == "threads, 1 threads"
    assert "revision" in found["database"].detail


def test_both_engines_are_found_in_order(database_settings: Settings) -> None:
    found = checks(database_settings)["database"]
    assert (found.state, found.detail.split(",")[0]) == ("ok", "postgresql" if database_settings.database_url else "sqlite")


def test_a_database_without_tables_is_a_fault_and_is_not_made(tmp_path: Path) -> None:
    found = checks(load(home=str(tmp_path / "home")))["database"]
    assert (found.state, "segkit" in found.advice) == ("fault", True)
    assert not (tmp_path / "home").exists(), "looking changes nothing"


def test_a_database_that_does_not_answer_is_a_fault_without_its_password(tmp_path: Path) -> None:
    settings = load(home=str(tmp_path), database_url="postgresql://nobody:hunter2@127.0.0.1:1/none")
    found = checks(settings)["database"]
    assert found.state == "fault"
    assert "hunter2" not in found.detail + found.advice


def test_a_cache_that_answers_and_one_that_does_not(tmp_path: Path, valkey_url: str) -> None:
    assert checks(load(home=str(tmp_path), redis_url=valkey_url))["cache"].state == "ok"
    gone = checks(load(home=str(tmp_path), redis_url="redis://127.0.0.1:1/0"))["cache"]
    assert (gone.state, "SEGKIT_REDIS_URL" in gone.advice) == ("fault", True)


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    with unwritable(tmp_path / "locked") as folder:
        found = checks(load(home=str(folder / "home")))["disk"]
    assert (found.state, "SEGKIT_HOME" in found.advice) == ("fault", True)


def test_little_free_space_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LEAST_FREE_BYTES", 2**60)
    found = checks(load(home=str(tmp_path)))["disk"]
    assert (found.state, "Free some space" in found.advice) == ("fault", True)


def test_workers_that_want_more_memory_than_there_is(tmp_path: Path) -> None:
    found = checks(load(home=str(tmp_path), workers=100, worker_memory="100 GiB"))["memory"]
    assert (found.state, "SEGKIT_WORKER_MEMORY" in found.advice) == ("fault", True)


def test_a_home_in_a_store_is_noted(tmp_path: Path) -> None:
    found = checks(load(home="memory://somewhere", database_url=f"sqlite:///{tmp_path}/segkit.db"))
    assert found["disk"].state == "note"
    assert found["database"].state == "fault"


def test_a_broken_plugin_is_named_and_the_rest_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", "crooked", "raise ImportError('no GPU here')")))
    found = checks(load(home=str(tmp_path)))
    assert "crooked" in segmenters.names()
    assert found["segmenters"].state == "fault"
    assert "no GPU here" in found["segmenters"].detail
    assert found["kernels"].state == "ok"


def test_a_cluster_that_does_not_answer(healthy: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    settings = load(home=healthy.home, cluster="tcp://127.0.0.1:1")
    found = checks(settings, with_cluster=True)["cluster"]
    assert (found.state, "SEGKIT_CLUSTER" in found.advice) == ("fault", True)


def test_a_shared_disk_under_sqlite_is_a_fault(healthy: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.file_system(healthy).state == "ok"
    monkeypatch.setattr(machine, "kind_of_file_system", lambda path: "nfs4")
    found = machine.file_system(healthy)
    assert (found.state, "PostgreSQL" in found.advice) == ("fault", True)
    monkeypatch.setattr(machine, "kind_of_file_system", lambda path: "ext4")
    found = machine.file_system(load(home=healthy.home, cluster="slurm", database_url="postgresql://db/lab"))
    assert (found.state, "every" in found.detail or "others" in found.detail) == ("note", True)


def test_the_kind_of_a_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text("/dev/a / ext4 rw 0 0\nserver:/x /data/my\\040lab nfs4 rw 0 0\n")
    assert machine.kind_of_file_system(Path("/data/my lab/home"), tmp_path / "mounts") == "nfs4"
    assert machine.kind_of_file_system(Path("/data/home"), tmp_path / "mounts") == "ext4"
    assert machine.kind_of_file_system(Path("/data"), tmp_path / "none") == ""


def test_a_home_that_anybody_may_change_is_a_fault(healthy: Settings) -> None:
    Path(healthy.home).chmod(0o777)
    found = machine.permissions(healthy)
    assert (found.state, "chmod o-w" in found.advice) == ("fault", True)
    Path(healthy.home).chmod(0o700)
    assert machine.permissions(healthy).state == "ok"


def test_a_taken_port_is_told(healthy: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        assert machine.port(load(home=healthy.home, server_port=number)).state == "note"
    assert machine.port(load(home=healthy.home, server_port=number)).state == "ok"


def test_packages_that_are_too_old_are_named(healthy: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "requires", lambda name: ["numpy>=99", "no-such-package-here>=1", 'other>=1; extra == "dev"'])
    found = machine.versions(healthy)
    assert found.state == "fault"
    assert "numpy" in found.detail
    assert "no-such-package-here is not installed" in found.detail
    assert "other" not in found.detail


def test_what_goes_on_is_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that nobody works on, a worker that fell silent, images that failed, orphans, and no backup."""
    kit = project.kit
    settings = kit.settings
    assert {look(settings).state for look in (state.workers, state.failures, state.orphans)} == {"ok"}
    run = project.segment("threshold")
    assert "nobody works" in state.workers(settings).detail
    with kit.database.write() as connection:
        claims = jobs.claim(connection, "lost-worker", 1, 1.0)
    time.sleep(1.1)
    assert "lost-worker" in state.workers(settings).detail
    with kit.database.write() as connection:
        jobs.fail(connection, claims[0], ErrorKind.INPUT, "It is cut short.", 0)
    found = state.failures(settings)
    assert (found.state, f"runs {run.number}" in found.detail) == ("note", True)
    monkeypatch.setattr(state, "LEAST_ORPHANS_BYTES", 1)
    lost = Path(settings.home) / "batches" / "99" / "a.ipynb"
    lost.parent.mkdir(parents=True)
    lost.write_bytes(b"{}")
    present = time.time
    monkeypatch.setattr("segkit.upkeep.orphans.time.time", lambda: present() + 2 * 86_400)
    assert "gc --delete" in state.orphans(settings).advice


def test_the_age_of_the_backup_is_told(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = project.kit.settings
    assert (state.backup(settings).state, state.backup(settings).detail) == ("note", "there is none")
    backups.take(project.kit.database, settings.home, tmp_path / "backups")
    assert state.backup(settings).state == "ok"
    long_ago = (datetime.now(UTC) - timedelta(days=8), "/backups/one")
    monkeypatch.setattr("segkit.backups.last_note", lambda home: long_ago)
    assert (state.backup(settings).state, state.backup(settings).detail) == ("note", "8 days old, in /backups/one")
    assert state.backup(settings.model_copy(update={"backup_every_days": 0})).state == "ok"
