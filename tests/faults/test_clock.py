"""The database's clock is set forward and back by an hour. Leases are measured by it alone, so it is the one that is set here.

SQLite asks this process what time it is (`segkit_now`), which is told otherwise. In PostgreSQL `statement_timestamp()` is shadowed by a
function of another schema, which comes before `pg_catalog` on the database's search path. Files keep the true time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from segkit import jobs
from segkit.database import engines, now, open_database
from segkit.kit import Kit
from segkit.settings import Settings
from tests.faults.invariants import check
from tests.faults.processes import until
from tests.faults.report import record
from tests.faults.scenes import queue_plate, url_of
from tests.plates import open_kit

MakeSettings = Callable[..., Settings]
HOUR = 3600.0

SHADOW = """
CREATE SCHEMA IF NOT EXISTS shadow;
CREATE TABLE IF NOT EXISTS shadow.clock (ahead double precision NOT NULL);
DELETE FROM shadow.clock;
INSERT INTO shadow.clock VALUES (0);
CREATE OR REPLACE FUNCTION shadow.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS
$$ SELECT pg_catalog.statement_timestamp() + make_interval(secs => (SELECT ahead FROM shadow.clock)) $$;
"""


class Clock:
    """The database's clock, which can be set."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        self.url = url_of(settings)
        if self.url is None:
            monkeypatch.setattr(engines, "sqlite_now", lambda: f"{datetime.now(UTC) + timedelta(seconds=self.ahead):%Y-%m-%d %H:%M:%S.%f}")
        else:
            self._administer(SHADOW)
            self._administer("ALTER DATABASE {} SET search_path = public, shadow, pg_catalog")

    def set(self, ahead: float) -> None:
        """Set it ahead of the true time by so many seconds, or behind."""
        self.ahead = ahead
        if self.url is not None:
            self._administer(f"UPDATE shadow.clock SET ahead = {ahead}")

    def restore(self) -> None:
        """Leave the database as it was."""
        if self.url is not None:
            self._administer("ALTER DATABASE {} RESET search_path")
            self._administer("DROP SCHEMA shadow CASCADE")

    def _administer(self, statement: str) -> None:
        assert self.url is not None
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.replace("{}", connection.info.dbname))  # type: ignore[arg-type]


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, make_settings: MakeSettings) -> Settings:
    """Settings of a migrated, empty database, once for each engine."""
    return make_settings(request.param)


@pytest.fixture
def clock(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Its clock."""
    clock = Clock(settings, monkeypatch)
    yield clock
    clock.restore()


def claim(kit: Kit, worker: str, limit: int) -> list[jobs.Claim]:
    """Take jobs on a lease of a minute."""
    with kit.database.write() as connection:
        return jobs.claim(connection, worker, limit, 60)


def dialect_of(settings: Settings) -> str:
    return "postgresql" if settings.database_url else "sqlite"


def test_the_clock_that_is_set_is_the_one_that_counts(settings: Settings, clock: Clock) -> None:
    with open_database(settings) as database:
        for ahead in (0.0, HOUR, -HOUR):
            clock.set(ahead)
            with database.read() as connection:
                assert abs((now(connection) - datetime.now(UTC)).total_seconds() - ahead) < 60


def test_what_was_queued_before_the_clock_was_set_back_is_worked_on_at_once(settings: Settings, clock: Clock, tmp_path: Path) -> None:
    with open_kit(settings) as kit:
        queue_plate(kit, tmp_path / "plate", [1, 2, 3])
        clock.set(-HOUR)
        claims = claim(kit, "w", 10)
        assert len(claims) == 3
        with kit.database.write() as connection:
            jobs.release(connection, claims)
        kit.work_off()
        check(kit.database, settings.home, drained=True)
    told = "The queue goes on at once; all jobs are done"
    record("Clock set back an hour", f"the database's clock, while jobs are queued ({dialect_of(settings)})", 1, told)


def test_a_dead_workers_jobs_come_back_whichever_way_the_clock_was_set(settings: Settings, clock: Clock, tmp_path: Path) -> None:
    """Set forward, a lease ends early, and the fence refuses the late commit. Set back, it ends later by as much, and no more."""
    with open_kit(settings) as kit:
        queue_plate(kit, tmp_path / "plate", [1, 2])
        dead = claim(kit, "dead", 1)
        clock.set(-HOUR)
        second = claim(kit, "second", 10)
        assert [each.job_id for each in (*dead, *second)] == [1, 2]  # the first lease holds for another hour and a minute
        clock.set(61)  # as an hour goes by
        third = [each for _ in range(3) for each in claim(kit, "third", 10)]  # one suspect at a time
        assert sorted(each.job_id for each in third) == [1, 2]
        clock.set(HOUR + 61)
        fourth = [each for _ in range(3) for each in claim(kit, "fourth", 10)]
        assert sorted(each.job_id for each in fourth) == [1, 2]
        with kit.database.write() as connection:
            late = [jobs.Finished(each.job_id, each.attempt, 1) for each in (*dead, *second, *third)]
            assert jobs.finish(connection, late) == set()  # the fence
            jobs.release(connection, fourth)
        kit.work_off()
        check(kit.database, settings.home, drained=True)
    told = "A lease ends early and the late commit is refused; or it ends later by as much as the clock was set back"
    record("Clock set forward an hour", f"the database's clock, while a dead worker holds jobs ({dialect_of(settings)})", 3, told)


@pytest.mark.faults
def test_workers_at_work_while_the_clock_jumps(settings: Settings, clock: Clock, tmp_path: Path) -> None:
    """Two workers work while the clock jumps to and fro; a job that is taken over in between is made once more, and committed once."""
    jumps = [HOUR, -HOUR, 0.0, 2 * HOUR, HOUR, -2 * HOUR, 0.0]
    with open_kit(settings, max_attempts=30) as kit, open_kit(settings, max_attempts=30) as other:
        queue_plate(kit, tmp_path / "plate", [number % 9 for number in range(150)])
        workers = [threading.Thread(target=each.work_off) for each in (kit, other)]
        for worker in workers:
            worker.start()
        made = 0
        for jump in jumps:
            until(lambda made=made: kit.queue().done >= min(150, made + 15), what="progress after a jump")
            made = kit.queue().done
            clock.set(jump)
        for worker in workers:
            worker.join(90)
        assert not any(worker.is_alive() for worker in workers)
        check(kit.database, settings.home, drained=True)
    told = "All jobs are done once; what was taken over early is refused by the fence"
    record("Clock set forward an hour", f"the database's clock to and fro under two workers ({dialect_of(settings)})", len(jumps), told)


@pytest.mark.faults
def test_a_failed_job_waits_no_longer_than_the_longest_wait_when_the_clock_is_set_back(
    settings: Settings, clock: Clock, tmp_path: Path
) -> None:
    with open_kit(settings, retry_seconds=300) as kit:
        folder = tmp_path / "plate"
        run = queue_plate(kit, folder, [1])
        (folder / "000.tif").rename(tmp_path / "away.tif")
        worker = kit.worker()
        working = threading.Thread(target=lambda: worker.run(kit.idle))
        working.start()
        until(lambda: run.jobs().items[0].error, what="the failure")
        (tmp_path / "away.tif").rename(folder / "000.tif")
        clock.set(-HOUR)
        working.join(90)
        assert not working.is_alive()
        assert run.progress().done == 1
        check(kit.database, settings.home, drained=True)
    record("Clock set back an hour", f"while a failed job waits for its next attempt ({dialect_of(settings)})", 1, "It is tried at once")
