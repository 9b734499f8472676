"""What is exported: one image's labels and objects, loaded only when a format asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segkit import results
from segkit.labels import Region


@dataclass(frozen=True)
class Item:
    """One image of a run."""

    image_id: int
    name: str  #: the image's file name
    uri: str  #: where the image lies
    shape: tuple[int, ...]  #: of the label image
    labels: Callable[[Region | None], NDArray[np.int32]]  #: reads the label image, or a region of it
    objects: Callable[[], pa.Table]  #: reads the object table
    axes: str = "YX"  #: "YX", "ZYX", "TYX" or "TZYX"
    pixel_size_um: float | None = None
    z_step_um: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)  #: of the run: segmenter, version, parameters, ...

    @property
    def rows(self) -> int:
        """Rows of a plane."""
        return self.shape[-2]

    @property
    def columns(self) -> int:
        """Columns of a plane."""
        return self.shape[-1]

    @property
    def planes(self) -> int:
        """Number of planes: 1, or those of a stack, or of a time series."""
        return prod(self.shape[:-2])

    def position(self, plane: int) -> dict[str, int]:
        """Return the place of a plane in a stack or series, by axis: {"t": 3}; nothing for a single plane."""
        index = np.unravel_index(plane, self.shape[:-2]) if self.axes != "YX" else ()
        return {axis.lower(): int(at) for axis, at in zip(self.axes, index, strict=False)}

    def read(self, plane: int, rows: slice | None = None, columns: slice | None = None) -> NDArray[np.int32]:
        """Read a part of one plane.

        Returns
        -------
        (rows, columns) int32
            0 on background.
        """
        place = tuple(slice(at, at + 1) for at in self.position(plane).values())
        part = self.labels((*place, rows or slice(0, self.rows), columns or slice(0, self.columns)))
        return part.reshape(part.shape[-2:])


def item(path: str, image_id: int, name: str, uri: str) -> Item:
    """Make an item of a stored result.

    Parameters
    ----------
    path : str
        The result's folder or URL, from `results.locate`.
    image_id, name, uri
        Of the image.

    Raises
    ------
    ResultCorruptError
        The result is not whole.
    """
    result = results.open_result(path)
    return Item(
        image_id,
        name,
        uri,
        result.shape,
        partial(result.labels.read, 0),
        result.read_objects,
        result.axes,
        result.pixel_size_um,
        result.z_step_um,
        result.provenance,
    )


def item_of_arrays(
    name: str,
    labels: NDArray[Any],
    objects: pa.Table,
    *,
    image_id: int = 1,
    uri: str = "",
    axes: str = "YX",
    pixel_size_um: float | None = None,
    z_step_um: float | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Item:
    """Make an item of arrays in memory, such as those of a notebook without a database."""
    labels = np.asarray(labels)

    def read(region: Region | None) -> NDArray[np.int32]:
        return np.asarray(labels[region or ...], dtype=np.int32)

    return Item(image_id, name, uri, labels.shape, read, lambda: objects, axes, pixel_size_um, z_step_um, provenance or {})
