"""Reading a label image: every chunk is checked, and a lost one is an error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import SelectionError
from segkit.files import corrupt, fetch, folder
from segkit.labels.layout import ROOT, Layout, Region, as_labels, chunk_name, decode, gather, whole


@dataclass(frozen=True)
class LabelReader:
    """A finished label image, open for reading. Every chunk is checked against the manifest when it is read."""

    path: str
    layout: Layout
    files: dict[str, tuple[int, str]]  #: every file but the root's document: bytes and checksum

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the full-size image."""
        return self.layout.shape

    def read(self, level: int = 0, region: Region | None = None) -> NDArray[np.int32]:
        """Read a region of a pyramid level.

        Parameters
        ----------
        level : int
            0 is full size; each further level has half the rows and columns.
        region : tuple of slices, optional
            In pixels of that level, one slice per axis. Default: all of it.

        Returns
        -------
        int32, one axis per axis of the image
            0 on background.

        Raises
        ------
        SelectionError
            There is no such level or region.
        ResultCorruptError
            A chunk is missing or damaged.
        """
        if not 0 <= level < self.layout.levels:
            raise SelectionError(f"The label image has levels 0 to {self.layout.levels - 1}, not {level}.")
        part = whole(self.layout.shape_at(level), region)
        return as_labels(gather(self.layout, level, part, 1, partial(self._load, level)))

    def verify(self) -> None:
        """Read every file and compare it with the manifest.

        Raises
        ------
        ResultCorruptError
            One is missing or damaged.
        """
        for level in range(self.layout.levels):
            self._fetch(f"{level}/{ROOT}")
            for index in self.layout.grid_at(level):
                self._load(level, index)

    def _load(self, level: int, index: tuple[int, ...]) -> NDArray[Any] | None:
        name = chunk_name(level, index)
        return decode(self._fetch(name), self.layout, level, f"{self.path}/{name}") if name in self.files else None

    def _fetch(self, name: str) -> bytes:
        return fetch(folder(self.path), name, *self.files[name])


def open_labels(path: str, checksum: str | None = None) -> LabelReader:
    """Open a finished label image.

    Parameters
    ----------
    path : str
        The OME-Zarr group that a `LabelWriter` finished.
    checksum : str, optional
        What `LabelWriter.finish` returned; when given, the manifest is checked against it.

    Raises
    ------
    ResultCorruptError
        The image is not whole.
    """
    document = fetch(folder(path), ROOT, None, checksum)
    try:
        kept = json.loads(document)["attributes"]["segkit"]
        sizes = {name: kept[name] for name in ("pixel_size_um", "z_step_um", "time_step_s")}
        layout = Layout(kept["axes"], tuple(kept["shape"]), tuple(kept["chunk"]), kept["dtype"], **sizes)
        return LabelReader(path, layout, {name: (size, check) for name, (size, check) in kept["files"].items()})
    except (ValueError, KeyError, TypeError) as error:
        raise corrupt(f"{path}/{ROOT}", "cannot be read") from error
