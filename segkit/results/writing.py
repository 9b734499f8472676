"""Writing a result: beside its final place, flushed, read back and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from segkit import objects as tables
from segkit.errors import ResultCorruptError
from segkit.files import digest, folder
from segkit.labels import LabelWriter, open_labels
from segkit.results.places import LABELS, OBJECTS, PROVENANCE, labels_path, objects_path
from segkit.results.publishing import discard


@dataclass(frozen=True)
class Written:
    """A result that lies on the disk, whole and checked, but is not published."""

    path: str  #: its folder or URL
    objects: int
    bytes: int
    checksum: str  #: of `provenance.json`, which holds those of everything else


def write(
    staging: str,
    labels: ArrayLike,
    objects: pa.Table,
    *,
    axes: str,
    pixel_size_um: float | None,
    z_step_um: float | None = None,
    provenance: Mapping[str, Any],
    compression_level: int = 3,
) -> Written:
    """Write a result beside its final place, flush it, read it back and check it.

    Parameters
    ----------
    staging : str
        Folder or fsspec URL, from `staging`; nothing is in it yet.
    labels : integers, one axis per letter of `axes`
        0 on background.
    objects : pyarrow.Table
        One row per object.
    axes : str
        "YX", "ZYX", "TYX" or "TZYX".
    pixel_size_um, z_step_um : float, optional
        Physical size of a pixel.
    provenance : mapping
        What JSON can hold.
    compression_level : int
        Zstandard level from 1 (fastest) to 19 (smallest).

    Raises
    ------
    InvalidPixelsError
        It is no label image.
    DiskFullError, NotWritableError
        The disk says so. Nothing half-written is kept, whatever is raised.
    """
    labels = np.asarray(labels)
    small = labels.dtype.kind in "iu" and labels.size and labels.max() <= np.iinfo(np.uint16).max
    try:
        writer = LabelWriter.create(
            labels_path(staging),
            labels.shape,
            axes,
            dtype="uint16" if small else "uint32",
            pixel_size_um=pixel_size_um,
            z_step_um=z_step_um,
            compression_level=compression_level,
        )
        writer.write(labels)
        writer.finish()
        folder(staging).write(OBJECTS, tables.encode(objects, provenance, compression_level))
        return seal(staging, provenance)
    except BaseException:
        discard(staging)
        raise


def seal(staging: str, provenance: Mapping[str, Any]) -> Written:
    """Check a result whose labels and objects were written by a `LabelWriter` and an `ObjectWriter`, and make it whole.

    Raises
    ------
    ResultCorruptError
        One of the two is not there, or does not read back.
    DiskFullError, NotWritableError
        The disk says so.
    """
    place = folder(staging)
    try:
        files = {name: place.checksum(name) for name in (f"{LABELS}/zarr.json", OBJECTS)}
    except FileNotFoundError as error:
        raise ResultCorruptError(f"The result {staging} is not finished: {error}") from error
    labels = open_labels(labels_path(staging), files[f"{LABELS}/zarr.json"][1])
    rows = tables.read(objects_path(staging), [], files[OBJECTS]).num_rows
    document = {"objects": rows, "provenance": dict(provenance), "files": files}
    data = json.dumps(document, indent=1, default=str).encode()
    place.write(PROVENANCE, data)
    place.flush()
    size = len(data) + sum(size for size, _ in (*files.values(), *labels.files.values()))
    return Written(staging, rows, size, digest(data))
