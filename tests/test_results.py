"""Results: written beside, checked, published, found again; and their rows in both databases."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sqlalchemy import Connection, event, exc, insert, text

from segkit import results
from segkit.database import Database, now
from segkit.errors import (
    CursorError,
    DatabaseError,
    DiskFullError,
    InvalidPixelsError,
    NotWritableError,
    PageError,
    ResultCorruptError,
    UnknownImageError,
    UnknownRunError,
)
from segkit.schema import Base
from tests.disks import mounted, unwritable

PROVENANCE = {"image": "a.tif", "content_hash": "12ab", "run": 3, "segmenter": "nuclei", "version": "1", "parameters": {"diameter_um": 9}}


def some_labels(shape: tuple[int, ...] = (80, 90)) -> NDArray[np.int32]:
    labels = np.zeros(shape, dtype=np.int32)
    labels[..., 5:25, 5:25] = 1
    labels[..., 40:60, 30:80] = 2
    return labels


def some_objects(rows: int = 2) -> pa.Table:
    return pa.table({"label": np.arange(1, rows + 1), "area_um2": np.arange(rows) * 1.5})


def write(home: str, image_id: int = 7, attempt: int = 1, labels: NDArray[np.int32] | None = None, axes: str = "YX") -> results.Written:
    return results.write(
        results.staging(home, 3, image_id, attempt),
        some_labels() if labels is None else labels,
        some_objects(),
        axes=axes,
        pixel_size_um=0.5,
        provenance=PROVENANCE,
        compression_level=3,
    )


@pytest.fixture(params=["disk", "store"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "home") if request.param == "disk" else f"memory://{tmp_path}/home"


def test_what_is_written_is_read(home: str) -> None:
    written = write(home)
    assert written.objects == 2
    stored = results.publish(home, written.path, 3, 7)
    path = results.locate(home, stored)
    assert np.array_equal(results.read_labels(path), some_labels())
    assert np.array_equal(results.read_labels(path, region=(slice(10, 50), slice(3, 60))), some_labels()[10:50, 3:60])
    assert results.read_objects(path).equals(some_objects())
    assert results.read_objects(path, ["area_um2"]).schema.names == ["area_um2"]
    result = results.verify(path, written.checksum)
    assert (result.objects, result.axes, result.shape, result.pixel_size_um) == (2, "YX", (80, 90), 0.5)
    assert result.provenance == PROVENANCE


def test_the_layout_on_disk_is_as_documented(tmp_path: Path) -> None:
    written = write(str(tmp_path))
    assert results.publish(str(tmp_path), written.path, 3, 7) == "results/3/7"
    place = tmp_path / "results" / "3" / "7"
    assert sorted(os.listdir(place)) == ["labels.ome.zarr", "objects.parquet", "provenance.json"]
    assert json.loads((place / "provenance.json").read_text())["provenance"] == PROVENANCE
    assert pd.read_parquet(place / "objects.parquet")["label"].tolist() == [1, 2]
    files = [path for path in place.rglob("*") if path.is_file()]
    assert len(files) == 5
    assert written.bytes == sum(path.stat().st_size for path in files)
    assert os.listdir(tmp_path / "results" / "3") == ["7"]


@pytest.mark.parametrize(("axes", "shape"), [("TYX", (4, 80, 90)), ("ZYX", (3, 80, 90))])
def test_series_and_volumes_are_results_too(tmp_path: Path, axes: str, shape: tuple[int, ...]) -> None:
    labels = some_labels(shape) * np.arange(1, shape[0] + 1, dtype=np.int32)[:, None, None]
    written = write(str(tmp_path), labels=labels, axes=axes)
    assert np.array_equal(results.read_labels(written.path), labels)
    assert np.array_equal(results.read_labels(written.path, region=(slice(2, 3), slice(0, 80), slice(0, 90)))[0], labels[2])
    assert results.open_result(written.path).axes == axes


def test_publishing_never_replaces(tmp_path: Path) -> None:
    """A late attempt, frozen until its job was done by another, leaves that result as it is; and so does making it again."""
    home = str(tmp_path)
    late, first, again = write(home, attempt=1), write(home, attempt=2, labels=some_labels() * 5), write(home, attempt=3)
    stored = [results.publish(home, each.path, 3, 7) for each in (first, late, again)]
    assert stored[0] == "results/3/7"
    assert stored[1:] == [os.path.relpath(each.path, tmp_path) for each in (late, again)]
    for path, each in zip(stored, (first, late, again), strict=True):
        results.verify(results.locate(home, path), each.checksum)
    assert set(results.sweep(home, {stored[2]}, -60)) == set(stored[:2])


def test_many_are_published_at_once(tmp_path: Path) -> None:
    home = str(tmp_path)
    written = [write(home, image_id) for image_id in (1, 2, 3)]
    stored = results.publish_all(home, [(each.path, 3, image_id) for image_id, each in enumerate(written, 1)])
    assert stored == ["results/3/1", "results/3/2", "results/3/3"]
    assert sorted(os.listdir(tmp_path / "results" / "3")) == ["1", "2", "3"]


def test_a_store_keeps_attempts_apart(tmp_path: Path) -> None:
    home = f"memory://{tmp_path}/home"
    first, second = write(home, attempt=1), write(home, attempt=2)
    stored = [results.publish(home, each.path, 3, 7) for each in (first, second)]
    assert stored[0] != stored[1]
    for path, each in zip(stored, (first, second), strict=True):
        results.verify(results.locate(home, path), each.checksum)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidPixelsError):
        write(str(tmp_path), labels=some_labels() - 1)
    assert not list(tmp_path.rglob("*.part*"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with mounted(tmp_path / "small", "size=256k") as small:
        with pytest.raises(DiskFullError, match="free some space"):
            write(str(small), labels=rng.integers(0, 2**20, (400, 400), dtype=np.int32))
        assert not [path for path in small.rglob("*") if path.is_file()]


def test_an_unwritable_home_is_named(tmp_path: Path) -> None:
    with unwritable(tmp_path / "locked") as locked, pytest.raises(NotWritableError, match="locked"):
        write(str(locked))


@pytest.mark.parametrize(
    "name", ["labels.ome.zarr/zarr.json", "labels.ome.zarr/0/zarr.json", "labels.ome.zarr/0/c/0/0", "objects.parquet", "provenance.json"]
)
def test_every_lost_or_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    written = write(str(tmp_path))
    file = Path(written.path) / name
    data = file.read_bytes()
    rng = np.random.default_rng(1)
    for bit in rng.choice(8 * len(data), 40, replace=False):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(damaged)
        with pytest.raises(ResultCorruptError, match=r"segkit retry"):
            results.verify(written.path, written.checksum)
    file.unlink()
    with pytest.raises(ResultCorruptError, match=f"{name} is missing"):
        results.verify(written.path, written.checksum)


def test_a_damaged_table_is_not_read(tmp_path: Path) -> None:
    written = write(str(tmp_path))
    file = Path(written.path) / "objects.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ResultCorruptError):
        results.read_objects(written.path)


def test_large_results_are_sealed(tmp_path: Path) -> None:
    staging = results.staging(str(tmp_path), 3, 7, 1)
    writer = results.LabelWriter.create(results.labels_path(staging), (256, 256), "YX", chunk=(128, 128), pixel_size_um=0.5)
    with pytest.raises(ResultCorruptError, match="not finished"):
        results.seal(staging, PROVENANCE)
    for row in (0, 128):
        writer.write(np.full((128, 256), row + 1), (row, 0))
    writer.finish()
    with results.ObjectWriter(results.objects_path(staging)) as objects:
        objects.write(some_objects(1))
        objects.write(some_objects(1))
    written = results.seal(staging, PROVENANCE)
    assert written.objects == 2
    results.verify(staging, written.checksum)


def test_objects_of_a_run_are_one_table(home: str) -> None:
    parts = []
    for image_id in (1, 2):
        stored = results.publish(home, write(home, image_id).path, 3, image_id)
        parts.append((results.locate(home, stored), image_id, f"{image_id}.tif"))
    table = results.objects_of(parts).to_table()
    assert table.schema.names == ["image_id", "image", "label", "area_um2"]
    assert table.to_pandas()[["image_id", "image", "label"]].values.tolist() == [
        [1, "1.tif", 1],
        [1, "1.tif", 2],
        [2, "2.tif", 1],
        [2, "2.tif", 2],
    ]
    results.discard(parts[0][0])
    with pytest.raises(ResultCorruptError, match="missing"):
        results.objects_of(parts)


def test_leftovers_of_dead_attempts_are_swept(home: str) -> None:
    kept = results.publish(home, write(home, 1).path, 3, 1)
    orphan = results.publish(home, write(home, 2).path, 3, 2)
    half = results.staging(home, 3, 5, 1)
    results.LabelWriter.create(results.labels_path(half), (8, 8), "YX")
    assert results.sweep(home, {kept}, older_than_s=60) == []
    time.sleep(0.05)
    swept = results.sweep(home, {kept}, older_than_s=0.02)
    assert set(swept) == {orphan, half.removeprefix(f"{results.root(home)}/")}
    results.verify(results.locate(home, kept))
    with pytest.raises(ResultCorruptError):
        results.open_result(results.locate(home, orphan))
    assert results.sweep(home, {kept}, older_than_s=0.02) == []


def test_a_place_without_results_has_nothing_to_sweep(home: str) -> None:
    assert results.sweep(home, set(), older_than_s=0) == []


def test_what_was_just_published_is_not_swept(tmp_path: Path) -> None:
    """Its files are old, but it may be about to be committed: the time of its move counts."""
    written = write(str(tmp_path))
    for path in [Path(written.path), *Path(written.path).rglob("*")]:
        os.utime(path, (1, 1))
    results.publish(str(tmp_path), written.path, 3, 7)
    assert results.sweep(str(tmp_path), set(), older_than_s=60) == []


# Rows


@pytest.fixture
def add_run(database: Database) -> Callable[[int], int]:
    """Add a project, a run and its jobs, one for each of so many images; the run's id. Images are the same for all runs."""
    tables = Base.metadata.tables

    def add(images: int) -> int:
        with database.write() as connection:
            moment = now(connection)
            if connection.execute(text("SELECT count(*) FROM project")).scalar_one() == 0:
                connection.execute(insert(tables["project"]).values(name="p", created_at=moment, revision=0, images=0, unreadable=0))
                rows = [
                    {
                        "project_id": 1,
                        "content_hash": f"h{number}",
                        "uri": f"/data/{number}.tif",
                        "name": f"{number}.tif",
                        "bytes": 1,
                        "created_at": moment,
                    }
                    for number in range(1, images + 1)
                ]
                connection.execute(insert(tables["image"]), rows)
            run = dict.fromkeys(("priority", "queued", "running", "failed", "cancelled", "objects"), 0)
            made = connection.execute(
                insert(tables["run"]).values(
                    project_id=1,
                    fingerprint=f"{time.monotonic_ns()}",
                    segmenter="nuclei",
                    version="1",
                    parameters={},
                    selection={},
                    segkit_version="1",
                    created_at=moment,
                    done=images,
                    **run,
                )
            )
            (run_id,) = made.inserted_primary_key
            jobs = [
                {
                    "run_id": run_id,
                    "image_id": number,
                    "status": "done",
                    "priority": 0,
                    "attempt": 1,
                    "max_attempts": 3,
                    "not_before": moment,
                    "created_at": moment,
                }
                for number in range(1, images + 1)
            ]
            connection.execute(insert(tables["job"]), jobs)
        return int(run_id)

    return add


def new_results(connection: Connection, run_id: int) -> list[results.NewResult]:
    found = connection.execute(text("SELECT id, image_id FROM job WHERE run_id = :run ORDER BY id"), {"run": run_id}).all()
    return [
        results.NewResult(
            job_id, run_id, image_id, 1, f"results/{run_id}/{image_id}", f"check{image_id}", image_id, {"objects": image_id}, 100, 0.5
        )
        for job_id, image_id in found
    ]


def fill(database: Database, run_id: int) -> list[results.NewResult]:
    with database.write() as connection:
        rows = new_results(connection, run_id)
        results.insert(connection, rows)
    return rows


def test_results_of_a_run_come_page_by_page(database: Database, add_run: Callable[[int], int]) -> None:
    run_id = add_run(25)
    rows = fill(database, run_id)
    seen: list[results.Record] = []
    after = None
    while True:
        with database.read() as connection:
            page = results.of_run(connection, run_id, 10, after=after)
        assert page.total == 25
        seen += page.items
        after = page.next
        if after is None:
            break
    assert [each.job_id for each in seen] == [each.job_id for each in rows]
    first = seen[0]
    assert (first.image, first.uri, first.path, first.objects, first.summary) == (
        "1.tif",
        "/data/1.tif",
        f"results/{run_id}/1",
        1,
        {"objects": 1},
    )
    assert abs(first.created_at.timestamp() - time.time()) < 60
    with database.read() as connection:
        skipped = results.of_run(connection, run_id, 10, offset=20)
        assert [each.job_id for each in skipped.items] == [each.job_id for each in rows[20:]]
        assert results.of_run(connection, run_id, 25).next is None


def test_results_of_an_image_come_newest_first(database: Database, add_run: Callable[[int], int]) -> None:
    runs = [add_run(3), add_run(3), add_run(3)]
    for run_id in runs:
        fill(database, run_id)
    with database.read() as connection:
        page = results.of_image(connection, 2, 2)
        rest = results.of_image(connection, 2, 2, after=page.next)
    assert [each.run_id for each in (*page.items, *rest.items)] == runs[::-1]
    assert (page.total, rest.total, rest.next) == (3, 3, None)


def test_a_run_without_results_has_an_empty_page(database: Database, add_run: Callable[[int], int]) -> None:
    run_id = add_run(2)
    with database.read() as connection:
        assert results.of_run(connection, run_id).items == ()
        assert results.of_image(connection, 1).items == ()
        assert results.paths(connection) == set()


def test_paths_are_all_that_is_committed(database: Database, add_run: Callable[[int], int]) -> None:
    run_id = add_run(3)
    fill(database, run_id)
    with database.read() as connection:
        assert results.paths(connection) == {f"results/{run_id}/{image_id}" for image_id in (1, 2, 3)}


def test_a_job_has_one_result(database: Database, add_run: Callable[[int], int]) -> None:
    run_id = add_run(1)
    rows = fill(database, run_id)

    def insert_again() -> None:
        with database.write() as connection:
            results.insert(connection, rows)

    with pytest.raises((DatabaseError, exc.IntegrityError)):
        insert_again()
    with database.read() as connection:
        assert results.of_run(connection, run_id).total == 1


def test_what_is_not_there_is_named(database: Database, add_run: Callable[[int], int]) -> None:
    run_id = add_run(2)
    fill(database, run_id)

    def ask(function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        with database.read() as connection:
            function(connection, *arguments, **options)

    with pytest.raises(UnknownRunError, match="no run 99"):
        ask(results.of_run, 99)
    with pytest.raises(UnknownImageError, match="no image 99"):
        ask(results.of_image, 99)
    with pytest.raises(PageError):
        ask(results.of_run, run_id, 0)
    with pytest.raises(CursorError):
        ask(results.of_run, run_id, after="made up")


def test_lists_use_their_indexes(database: Database, add_run: Callable[[int], int]) -> None:
    for _ in range(12):
        fill(database, add_run(30))
    with database.write() as connection:
        connection.execute(text("ANALYZE"))
    asked: list[tuple[str, Any]] = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
    with database.read() as connection:
        after = results.of_run(connection, 5, 10).next
        asked.clear()
        results.of_run(connection, 5, 10, after=after)
        results.of_image(connection, 2, 10)
        statements = asked.copy()
        if database.dialect == "postgresql":
            connection.execute(text("SET enable_seqscan = off"))  # these tables are small enough to be read whole
        explain = "EXPLAIN QUERY PLAN " if database.dialect == "sqlite" else "EXPLAIN "
        assert len(statements) == 2, "each list is one statement"
        for index, (statement, parameters) in zip(("ix_result_run_id_job_id", "ix_result_image_id_created_at"), statements, strict=True):
            plan = " ".join(str(row) for row in connection.exec_driver_sql(explain + statement, parameters))
            assert index in plan, plan
