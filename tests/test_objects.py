"""Object tables: streamed in and out, whole or absent, with their provenance, and checked when read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segkit import objects
from segkit.errors import DiskFullError, ResultCorruptError, SelectionError
from segkit.objects import ObjectWriter
from tests.disks import mounted


def table(rows: int, start: int = 1) -> pa.Table:
    labels = np.arange(start, start + rows, dtype=np.int64)
    return pa.table({"label": labels, "area_um2": labels * 0.5, "touches_edge": labels % 2 == 0})


def test_pandas_reads_what_was_streamed(tmp_path: Path) -> None:
    path = str(tmp_path / "objects.parquet")
    with ObjectWriter(path, {"run": 3, "segmenter": "nuclei"}) as writer:
        for start in range(1, 301, 100):
            writer.write(table(100, start))
    assert writer.rows == 300
    frame = pd.read_parquet(path)
    assert frame["label"].tolist() == list(range(1, 301))
    assert frame.dtypes.astype(str).tolist() == ["int64", "float64", "bool"]
    assert objects.provenance_of(pq.read_schema(path)) == {"run": 3, "segmenter": "nuclei"}


def test_rows_are_gathered_into_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "ROW_GROUP", 50)
    with ObjectWriter(str(tmp_path / "objects.parquet")) as writer:
        for start in range(1, 121, 10):
            writer.write(table(10, start))
    with pq.ParquetFile(tmp_path / "objects.parquet") as file:
        assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [50, 50, 20]


def test_a_table_without_objects_is_a_table(tmp_path: Path) -> None:
    path = str(tmp_path / "objects.parquet")
    with ObjectWriter(path) as writer:
        writer.write(table(0))
    assert objects.read(path).schema.names == ["label", "area_um2", "touches_edge"]
    with ObjectWriter(path):
        pass
    assert objects.read(path).num_rows == 0


def test_an_interrupted_table_does_not_appear(tmp_path: Path) -> None:
    def write_half() -> None:
        with ObjectWriter(str(tmp_path / "objects.parquet")) as writer:
            writer.write(table(10))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_no_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def write_much(path: Path) -> None:
        with ObjectWriter(str(path)) as writer:
            for _ in range(4):
                writer.write(pa.table({"label": rng.integers(0, 2**62, objects.ROW_GROUP)}))

    with mounted(tmp_path / "small", "size=512k") as small:
        with pytest.raises(DiskFullError):
            write_much(small / "objects.parquet")
        assert not list(small.iterdir())


def test_columns_are_read_alone(tmp_path: Path) -> None:
    with ObjectWriter(str(tmp_path / "objects.parquet")) as writer:
        writer.write(table(5))
    assert objects.read(str(tmp_path / "objects.parquet"), ["area_um2"]).schema.names == ["area_um2"]
    with pytest.raises(SelectionError, match=r"no column colour\. It has label"):
        objects.read(str(tmp_path / "objects.parquet"), ["colour"])


@pytest.mark.parametrize("whole", [0, 2**24])
def test_a_damaged_table_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int) -> None:
    """Small tables are checked as a whole; in large ones, the pages that are read."""
    monkeypatch.setattr(objects, "WHOLE", whole)
    path = tmp_path / "objects.parquet"
    path.write_bytes(objects.encode(table(2000)))
    data = path.read_bytes()
    place = objects.folder(str(tmp_path))
    known = place.checksum("objects.parquet")
    assert objects.read(str(path), known=known).num_rows == 2000
    damaged = bytearray(data)
    damaged[300] ^= 16
    path.write_bytes(damaged)
    with pytest.raises(ResultCorruptError, match="damaged"):
        objects.read(str(path), known=known)
    path.write_bytes(data[:100])
    with pytest.raises(ResultCorruptError):
        objects.read(str(path))
    path.unlink()
    with pytest.raises(ResultCorruptError, match="missing"):
        objects.read(str(path))
    with pytest.raises(ResultCorruptError, match="missing"):
        objects.read_schema(str(path))


@pytest.mark.parametrize("store", [False, True])
def test_many_tables_are_one(tmp_path: Path, store: bool) -> None:
    parts = []
    for number in range(1, 6):
        place = f"memory://{tmp_path}/{number}" if store else str(tmp_path / str(number))
        rows = table(number)
        if number == 4:
            rows = rows.rename_columns(["label", "area_px", "touches_edge"])
        with ObjectWriter(f"{place}/objects.parquet") as writer:
            writer.write(rows)
        parts.append((f"{place}/objects.parquet", number, f"image '{number}'.tif"))
    dataset = objects.join_tables(parts)
    assert dataset.schema.names[:3] == ["image_id", "image", "label"]
    frame = dataset.to_table().to_pandas()
    assert frame.groupby("image_id").size().to_dict() == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}
    assert set(frame["image"]) == {f"image '{number}'.tif" for number in range(1, 6)}
    assert frame["area_px"].notna().sum() == 4
    assert frame["area_um2"].isna().sum() == 4
    assert sum(batch.num_rows for batch in dataset.to_batches(columns=["label"])) == 15
    few = dataset.filter(pa.compute.field("image_id") == 3).to_table()
    assert few["label"].to_pylist() == [1, 2, 3]


def test_no_tables_are_an_empty_one() -> None:
    assert objects.join_tables([]).to_table().schema.names == ["image_id", "image"]
