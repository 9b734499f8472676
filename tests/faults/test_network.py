"""The network between workers and their database: held up, reset, cut for less and more than a lease, and cut off for good."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from segkit.database import open_database
from segkit.settings import Settings, load
from tests.faults.invariants import check
from tests.faults.processes import Program, Programs, until
from tests.faults.relay import Network, Relay, network
from tests.faults.report import record
from tests.faults.scenes import disturb_while_working, queue_plate, url_of
from tests.plates import open_kit

MakeSettings = Callable[..., Settings]
LEASE = {"lease_seconds": 2, "beat_seconds": 0.4}
#: After so long a connection that hears nothing must have been given up: 30 s, and time for a busy machine.
GIVEN_UP = 75


def through(settings: Settings, url: str) -> Settings:
    """The same database by another way."""
    return settings.model_copy(update={"database_url": load(home=settings.home, database_url=url).database_url, **LEASE})


@pytest.mark.faults
def test_a_worker_whose_connections_are_reset_goes_on(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings, stop, chance, resets = make_settings("postgresql"), threading.Event(), random.Random(1), 0
    url = url_of(settings)
    assert url is not None
    with Relay(url) as relay, open_kit(settings) as straight:
        queue_plate(straight, tmp_path / "plate", [number % 9 for number in range(60)])

        def reset() -> None:
            nonlocal resets
            while resets < 10 and not stop.wait(chance.uniform(0.1, 0.8)):
                resets += relay.cut()

        with open_kit(through(settings, relay.url), **LEASE, max_attempts=50) as kit:
            disturb_while_working(kit, reset, stop)
        check(straight.database, settings.home, drained=True)
    assert resets >= 2
    told = "The worker connects again; a commit that was cut off is repeated or was made, never both"
    record("Connections to the database reset", "by a relay between worker and PostgreSQL, at random moments", resets, told)


@pytest.mark.faults
def test_a_worker_that_hears_nothing_for_longer_than_its_lease_commits_nothing_late(make_settings: MakeSettings, tmp_path: Path) -> None:
    """What was sent before and after arrives late, in order; meanwhile another worker takes the jobs over."""
    settings, stop, holds = make_settings("postgresql"), threading.Event(), 0
    url = url_of(settings)
    assert url is not None
    with Relay(url) as relay, open_kit(settings, **LEASE, max_attempts=50) as rival:
        queue_plate(rival, tmp_path / "plate", [number % 9 for number in range(150)])

        def hold() -> None:
            nonlocal holds
            while holds < 3 and not stop.wait(0.3):
                holds += 1
                relay.hold()
                stop.wait(3.5)
                relay.go_on()

        with open_kit(through(settings, relay.url), **LEASE, max_attempts=50) as kit:
            late = threading.Thread(target=kit.work_off)
            late.start()
            until(lambda: rival.queue().running, what="a claim through the relay")
            disturb_while_working(rival, hold, stop)
            late.join(60)
            assert not late.is_alive()
        check(rival.database, settings.home, drained=True)
    told = "Another worker takes over after the lease; the late commit is refused"
    record("Network held up for longer than a lease", "by a relay, 3.5 s at a lease of 2 s", holds, told)


class Distant:
    """A worker in a network of its own, whose only way to the database is a cable."""

    def __init__(self, programs: Programs, cable: Network, url: str) -> None:
        log = programs.folder / "distant.log"
        variables = {"CLUSTER": "threads", "DATABASE_URL": url, "LOG_LEVEL": "WARNING", "MAX_ATTEMPTS": "50"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                cable.command(sys.executable, "-m", "segkit", "worker"),
                env=programs.environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.program = Program("distant worker", process, log)
        programs.started.append(self.program)


@pytest.mark.faults
@pytest.mark.timeout(280)
def test_the_network_is_cut_for_less_and_more_than_a_lease(make_settings: MakeSettings, tmp_path: Path) -> None:
    """A worker alone waits and goes on. With another one beside it, its jobs are taken over, and what it brings late is refused."""
    settings, chance = make_settings("postgresql"), random.Random(6)
    url = url_of(settings)
    assert url is not None
    cuts = [chance.uniform(0.1, 2.0) for _ in range(5)] + [chance.uniform(4.0, 6.0) for _ in range(3)]
    with (
        network() as cable,
        Relay(url, cable.address) as relay,
        Programs(settings, tmp_path / "programs") as programs,
        open_kit(settings, **LEASE, max_attempts=50) as kit,
    ):
        folder = tmp_path / "plate"
        run = queue_plate(kit, folder, [number % 9 for number in range(120)])
        worker = Distant(programs, cable, relay.url).program
        for cut in cuts:
            done = run.progress().done
            until(lambda run=run, done=done: run.progress().done > done or run.progress().left == 0, what="progress")
            cable.unplug()
            time.sleep(cut)
            cable.plug()
            if not run.progress().left:  # faster than the cuts: more of the same
                run = kit.project("plate").segment("threshold", min_area=int(cut * 1000))
        until(lambda: run.progress().left == 0, 120, what="the end of the run")
        assert worker.alive, worker.output
        check(kit.database, settings.home, drained=True)

        run = kit.project("plate").segment("threshold", min_area=7)
        until(lambda: run.progress().done or run.progress().running, what="progress")
        cable.unplug()
        kit.work_off([run])
        cable.plug()
        again = kit.project("plate").segment("threshold", min_area=8)
        until(lambda: again.progress().left == 0, 120, what="what it does when the cable is back")
        assert worker.alive, worker.output
        worker.terminate()
        check(kit.database, settings.home, drained=True)
    told = "The worker waits and goes on; after a lease another one takes over, and the late commit is refused"
    record(
        "Network cut between worker and database",
        "network namespace, `ip link set down`, 0.1 to 6 s at a lease of 3 s",
        len(cuts) + 1,
        told,
    )


WAITING = """
import sys, time
from sqlalchemy import text
from segkit.database import open_database
from segkit.errors import DatabaseError
from segkit.settings import load
with open_database(load(home=sys.argv[1], database_url=sys.argv[2])) as database:
    print("waiting", flush=True)
    started = time.monotonic()
    try:
        with database.read() as connection:
            connection.execute(text("SELECT pg_sleep(600)"))
    except DatabaseError as error:
        print(f"{time.monotonic() - started:.1f} {error}", flush=True)
"""


@pytest.mark.faults
def test_a_server_that_is_cut_off_for_good_is_given_up(make_settings: MakeSettings, tmp_path: Path) -> None:
    """Its machine dies while a statement waits for its answer: nobody tells, and the next packet would never come."""
    settings = make_settings("postgresql")
    url = url_of(settings)
    assert url is not None
    with network() as cable, Relay(url, cable.address) as relay:
        command = cable.command(sys.executable, "-c", WAITING, settings.home, relay.url)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
            try:
                assert waiting.stdout is not None
                assert waiting.stdout.readline() == "waiting\n"
                time.sleep(1)
                cable.unplug()
                assert relay.cut()  # the reset is lost on the way
                said = waiting.communicate(timeout=GIVEN_UP)[0]
            finally:
                waiting.kill()
    seconds = float(said.split()[0])
    assert seconds < GIVEN_UP
    with open_database(settings) as database:
        check(database, settings.home)
    record(
        "Database machine dies", "cable pulled and the connection dropped while a statement waits", 1, "Given up within 30 s, tried again"
    )
