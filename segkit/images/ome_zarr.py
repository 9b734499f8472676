"""OME-Zarr 0.4 (Zarr 2) and 0.5 (Zarr 3): multiscale arrays in a folder or store, read chunk by chunk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from itertools import takewhile
from math import prod
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from segkit.errors import ImageFormatError, ImageReadError
from segkit.images.image import refuse_large_piece, refuse_unreadable
from segkit.images.info import Layout, Limits
from segkit.images.packing import bounded
from segkit.images.scale import duration_s, length_um, square
from segkit.images.storage import BLOCK, LocalSource, Source, StoreSource, file_system, is_url

#: A folder with one of these is a Zarr group or array.
MARKERS = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
NO_ZARR = "It is a folder and no OME-Zarr image. Add it with `segkit add`, and the images in it are found."
NOT_OME = "It is a Zarr without the OME metadata (multiscales) that says what its axes are. Write it with ome-zarr or ngff-zarr."
PLATE = "It is a plate or collection of several images. Add its folder, and each image in it is found."


class OmeZarrReader:
    """An open OME-Zarr image: one array for each level of its pyramid."""

    def __init__(self, uri: str, limits: Limits) -> None:
        self._uri = uri
        attributes = read_attributes(uri)
        if not any(_text(uri, name) is not None for name in MARKERS):
            raise ImageFormatError(NO_ZARR)
        multiscale = first_multiscale(attributes)
        group = zarr.open_group(_store(uri), mode="r")
        arrays = [_array(group, dataset) for dataset in _datasets(multiscale)]
        self._axes = _axes(multiscale, arrays[0].ndim)
        self._arrays = list(takewhile(lambda array: _alike(array, arrays[0], self._axes), arrays))
        self.layout = _lay_out(self._arrays, self._axes, multiscale, attributes)
        refuse_unreadable(self.layout, limits)
        for array in self._arrays:
            refuse_large_piece(prod(array.chunks), "One of its chunks", limits)

    def read(self, level: int, time: int, channel: int, plane: int, rows: slice, columns: slice) -> NDArray[Any]:
        """Return (rows, columns)."""
        place = {"t": time, "c": channel, "z": plane, "y": rows, "x": columns}
        where: Any = tuple(place[axis] for axis in self._axes)
        pixels: NDArray[Any] = np.asarray(self._arrays[level][where])
        pixels = pixels if self._axes.index("y") < self._axes.index("x") else pixels.T
        return np.ascontiguousarray(pixels, dtype=self.layout.dtype)

    def digest(self) -> tuple[int, str]:
        """Return size in bytes and content hash over the sorted relative names and bytes of its files."""
        size, state = 0, hashlib.blake2b(digest_size=20)
        for name, source in files_below(self._uri):
            label = name.encode("utf-8", "surrogateescape")
            # The lengths keep one file's end from passing for the next one's beginning.
            state.update(b"%d:%b%d:" % (len(label), label, source.size))
            for offset in range(0, source.size, BLOCK):
                state.update(source.read(offset, min(BLOCK, source.size - offset)))
            size += source.size
            source.close()
        return size, state.hexdigest()

    def close(self) -> None:
        """Let go of the arrays; there is no open file."""
        self._arrays = []


def read_attributes(uri: str) -> dict[str, Any]:
    """Return a Zarr group's attributes, those of OME-Zarr 0.5 from below their "ome"; {} when it is no Zarr group."""
    for name in MARKERS[:2]:
        text = _text(uri, name)
        if text is not None:
            document = json.loads(text)
            attributes = document.get("attributes", {}) if name == "zarr.json" else document
            return attributes.get("ome", attributes)
    return {}


def first_multiscale(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the description of the image in a group's attributes.

    Raises
    ------
    ImageFormatError
        When there is none.
    """
    multiscales = attributes.get("multiscales")
    if not multiscales:
        plate = "plate" in attributes or "bioformats2raw.layout" in attributes
        raise ImageFormatError(PLATE if plate else NOT_OME)
    return multiscales[0]


def images_in(uri: str) -> list[str]:
    """Return where the images of a Zarr are: itself, or those of its plate's wells, or of its collection.

    A Zarr that holds none of these is returned itself, so that whoever opens it is told why.
    """
    attributes = _attributes_or_none(uri)
    if "plate" in attributes:
        wells = [f"{uri}/{well['path']}" for well in attributes["plate"].get("wells", []) if "path" in well]
        fields = [f"{well}/{field['path']}" for well in wells for field in _attributes_or_none(well).get("well", {}).get("images", [])]
        return fields or [uri]
    if "multiscales" not in attributes and "bioformats2raw.layout" in attributes:
        return list(_numbered(uri)) or [uri]
    return [uri]


def _numbered(uri: str) -> Iterator[str]:
    number = 0
    while "multiscales" in _attributes_or_none(f"{uri}/{number}"):
        yield f"{uri}/{number}"
        number += 1


def _attributes_or_none(uri: str) -> dict[str, Any]:
    try:
        return read_attributes(uri)
    except (OSError, ValueError, AttributeError):
        return {}


def files_below(uri: str) -> Iterator[tuple[str, Source]]:
    """Every file below a folder or URL, by sorted relative name, opened one at a time."""
    if is_url(uri):
        system, root = file_system(uri)
        root = root.rstrip("/") + "/"
        for path in sorted(system.find(root)):
            name = path.removeprefix(root)
            yield name, StoreSource(uri, name)
        return
    for name in sorted(_local_names(uri)):
        yield name, LocalSource(f"{uri}/{name}")


def _local_names(root: str, below: str = "") -> Iterator[str]:
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _local_names(root, f"{below}{entry.name}/")
            elif entry.is_file():
                yield below + entry.name


def _text(uri: str, name: str) -> str | None:
    source: Source
    try:
        source = StoreSource(uri, name) if is_url(uri) else LocalSource(f"{uri}/{name}")
    except FileNotFoundError:
        return None
    try:
        return source.read(0, source.size).decode("utf-8")
    finally:
        source.close()


def _store(uri: str) -> Any:
    if is_url(uri):
        return zarr.storage.FsspecStore.from_url(uri, read_only=True)
    return zarr.storage.LocalStore(uri, read_only=True)


def _datasets(multiscale: dict[str, Any]) -> list[str]:
    paths = [str(dataset["path"]) for dataset in multiscale.get("datasets", [])]
    outside = [path for path in paths if path.startswith("/") or ".." in PurePosixPath(path).parts]
    if not paths or outside:
        raise ImageFormatError("Its metadata names no arrays, or some outside of its folder.")
    return paths


def _array(group: zarr.Group, path: str) -> zarr.Array:
    try:
        array = group[path]
    except KeyError as fault:
        raise ImageReadError(f'Its array "{path}" is missing. Copy the folder again from where it came.') from fault
    if not isinstance(array, zarr.Array):
        raise ImageReadError(f'Its "{path}" is a folder, not an array.')
    return bounded(array)


def _alike(array: zarr.Array, first: zarr.Array, axes: str) -> bool:
    """Tell whether a level of the pyramid has the times, channels and planes of the first, so that their numbers mean the same."""
    same = [number for number, axis in enumerate(axes) if axis not in "yx"]
    return array.ndim == first.ndim and all(array.shape[number] == first.shape[number] for number in same)


def _axes(multiscale: dict[str, Any], dimensions: int) -> str:
    """Return one letter for each dimension."""
    named = multiscale.get("axes") or "tczyx"[-dimensions:]
    axes = "".join(str(axis["name"] if isinstance(axis, dict) else axis).lower() for axis in named)
    if len(axes) != dimensions or len(set(axes)) != len(axes) or set(axes) - set("tczyx") or not {"y", "x"} <= set(axes):
        raise ImageFormatError(f"Its axes are {axes or 'not named'}; those of t, c, z, y, x are read, each at most once.")
    return axes


def _lay_out(arrays: Sequence[zarr.Array], axes: str, multiscale: dict[str, Any], attributes: dict[str, Any]) -> Layout:
    first = arrays[0]
    lengths = dict(zip(axes, first.shape, strict=True))
    chunks = dict(zip(axes, first.chunks, strict=True))
    levels = tuple((array.shape[axes.index("y")], array.shape[axes.index("x")]) for array in arrays)
    scale = _scale(multiscale, axes)
    return Layout(
        format="ome-zarr",
        dtype=str(np.dtype(first.dtype).newbyteorder("=")),
        levels=levels,
        chunks=(int(chunks["y"]), int(chunks["x"])),
        times=lengths.get("t", 1),
        channels=lengths.get("c", 1),
        planes=lengths.get("z", 1),
        names=tuple(str(channel.get("label", "")) for channel in (attributes.get("omero") or {}).get("channels", [])),
        pixel_size_um=square(scale.get("x"), scale.get("y")),
        z_step_um=scale.get("z"),
        time_step_s=scale.get("t"),
    )


def _scale(multiscale: dict[str, Any], axes: str) -> dict[str, float | None]:
    """Return the size of a step along each axis that has a unit, in micrometres or seconds."""
    factors = np.ones(len(axes))
    for transforms in (multiscale["datasets"][0].get("coordinateTransformations"), multiscale.get("coordinateTransformations")):
        for transform in transforms or []:
            if transform.get("type") == "scale" and len(transform.get("scale", ())) == len(axes):
                factors *= transform["scale"]
    units = [axis.get("unit") if isinstance(axis, dict) else None for axis in multiscale.get("axes") or axes]
    measured = zip(axes, factors.tolist(), units, strict=True)
    return {axis: duration_s(factor, unit) if axis == "t" else length_um(factor, unit) for axis, factor, unit in measured}
