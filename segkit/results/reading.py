"""Reading results back: nothing damaged or lost passes for a result."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segkit import objects as tables
from segkit.files import corrupt, fetch, folder, join
from segkit.labels import LabelReader, Region, open_labels
from segkit.results.places import LABELS, OBJECTS, PROVENANCE, labels_path, objects_path

if TYPE_CHECKING:
    import pyarrow.dataset as ds


@dataclass(frozen=True)
class Result:
    """A published result, open for reading."""

    path: str
    objects: int
    provenance: dict[str, Any]  #: image, hash, segmenter, version, parameters, segkit version, notebook
    labels: LabelReader
    table: tuple[int, str]  #: bytes and checksum of the object table

    def read_objects(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the object table, or some of its columns."""
        return tables.read(objects_path(self.path), columns, self.table)

    def read_schema(self) -> pa.Schema:
        """Read the names and types of the object table's columns."""
        return tables.read_schema(objects_path(self.path))

    @property
    def axes(self) -> str:
        """Axes of the label image: "YX", "ZYX", "TYX" or "TZYX"."""
        return self.labels.layout.axes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the label image."""
        return self.labels.shape

    @property
    def pixel_size_um(self) -> float | None:
        """Edge of a pixel in micrometres."""
        return self.labels.layout.pixel_size_um

    @property
    def z_step_um(self) -> float | None:
        """Distance of two planes in micrometres."""
        return self.labels.layout.z_step_um


def open_result(path: str, checksum: str | None = None) -> Result:
    """Open a result.

    Parameters
    ----------
    path : str
        Its folder or URL, from `locate`.
    checksum : str, optional
        The one in the database; when given, the result is checked against it.

    Raises
    ------
    ResultCorruptError
        It is not whole.
    """
    data = fetch(folder(path), PROVENANCE, None, checksum)
    try:
        document = json.loads(data)
        files = {name: (size, check) for name, (size, check) in document["files"].items()}
        labels = open_labels(labels_path(path), files[f"{LABELS}/zarr.json"][1])
        return Result(path, document["objects"], document["provenance"], labels, files[OBJECTS])
    except (ValueError, KeyError, TypeError) as error:
        raise corrupt(join(path, PROVENANCE), "cannot be read") from error


def read_labels(path: str, level: int = 0, region: Region | None = None) -> NDArray[np.int32]:
    """Read the label image of a result, or a region of it; see `LabelReader.read`.

    Raises
    ------
    SelectionError
        There is no such level or region.
    ResultCorruptError
        What is read is not what was written.
    """
    return open_result(path).labels.read(level, region)


def read_objects(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the object table of a result, or some of its columns.

    Raises
    ------
    SelectionError
        It has no column of that name.
    ResultCorruptError
        The table cannot be read.
    """
    return open_result(path).read_objects(columns)


def verify(path: str, checksum: str | None = None) -> Result:
    """Read every byte of a result and compare it with the checksums.

    Raises
    ------
    ResultCorruptError
        A file is missing or damaged; the message names it.
    """
    result = open_result(path, checksum)
    result.labels.verify()
    try:
        if folder(path).checksum(OBJECTS) != result.table:
            raise corrupt(objects_path(path), "is damaged: it does not match its checksum")
    except FileNotFoundError as error:
        raise corrupt(objects_path(path), "is missing") from error
    return result


def objects_of(parts: Iterable[tuple[str, int, str]]) -> ds.Dataset:
    """Present the object tables of many results as one, which is read only as it is asked for.

    Parameters
    ----------
    parts : iterable of (path, image id, image name)
        The results, by folder or URL.

    Returns
    -------
    pyarrow.dataset.Dataset
        Columns `image_id` and `image` first, then the measurements. Stream it with `to_batches`, read it with `to_table`,
        or hand it to DuckDB.

    Raises
    ------
    ResultCorruptError
        A table is missing or cannot be read.
    """
    try:
        return tables.join_tables((objects_path(path), image_id, name) for path, image_id, name in parts)
    except FileNotFoundError as error:
        raise corrupt(str(error), "is missing") from error
    except (pa.ArrowException, OSError) as error:
        raise corrupt(str(error), "is damaged") from error
