"""CZI, ND2 and LIF, the files of Zeiss, Nikon and Leica, through bioio's plug-ins: `pip install "segkit[formats]"`.

The first scene is read, plane by plane. Colour CZI is refused: the plug-in (bioio-czi 3.0.1) gave all three colours
the same values when it was tried.
"""

from __future__ import annotations

import importlib
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import FormatMissingError, ImageFormatError
from segkit.images.image import refuse_large_piece, refuse_unreadable
from segkit.images.info import Layout, Limits
from segkit.images.scale import positive, square
from segkit.images.storage import LocalSource, Source

#: First bytes of each format.
MAGIC = {b"ZISRAWFILE": "czi", b"\xda\xce\xbe\x0a": "nd2", b"\x00\x00\x00\x0cjP  ": "nd2", b"\x70\x00\x00\x00": "lif"}
#: The plug-in that reads a format, and what keeps it from reading a whole stack for one plane.
PLUGINS: dict[str, tuple[str, dict[str, Any]]] = {
    "czi": ("bioio_czi", {"chunk_dims": ["Y", "X", "S"]}),
    "nd2": ("bioio_nd2", {}),
    "lif": ("bioio_lif", {"chunk_dims": ["Y", "X", "S"]}),
}


class VendorReader:
    """An open CZI, ND2 or LIF file. The plug-ins are used by one thread at a time."""

    def __init__(self, source: Source, limits: Limits, kind: str) -> None:
        if not isinstance(source, LocalSource):
            raise ImageFormatError(f"{kind.upper()} files are read from a local disk only. Download it first.")
        self._source = source
        self._lock = threading.Lock()
        self._reader = _open(source.uri, kind)
        self._order = str(self._reader.dims.order)
        self.layout = _lay_out(self._reader, kind)
        refuse_unreadable(self.layout, limits)
        refuse_large_piece(self.layout.levels[0][0] * self.layout.levels[0][1], "One of its planes", limits)

    def read(self, level: int, time: int, channel: int, plane: int, rows: slice, columns: slice) -> NDArray[Any]:
        """Return (rows, columns), or (rows, columns, 3) of a colour image."""
        place = {axis: number for axis, number in (("T", time), ("C", channel), ("Z", plane)) if axis in self._order}
        with self._lock:
            pixels = self._reader.get_image_dask_data("YXS" if self.layout.colour else "YX", **place)[rows, columns]
            pixels = pixels.compute(scheduler="synchronous")
        return np.ascontiguousarray(pixels[..., :3] if self.layout.colour else pixels, dtype=self.layout.dtype)

    def digest(self) -> tuple[int, str]:
        """Return size in bytes and content hash."""
        return self._source.size, self._source.digest()

    def close(self) -> None:
        """Close the file."""
        self._source.close()


def _open(path: str, kind: str) -> Any:
    package, options = PLUGINS[kind]
    try:
        plugin = importlib.import_module(package)
    except ImportError as fault:
        raise FormatMissingError(f"Reading {kind.upper()} files", "formats") from fault
    return plugin.Reader(path, **options)


def _lay_out(reader: Any, kind: str) -> Layout:
    lengths = dict(zip(reader.dims.order, reader.dims.shape, strict=True))
    strange = {axis: length for axis, length in lengths.items() if axis not in "TCZYXS" and length > 1}
    if strange:
        axes = ", ".join(f"{axis}={length}" for axis, length in strange.items())
        raise ImageFormatError(f"It has axes beside time, channel and plane ({axes}), as mosaics have. Export it as OME-TIFF.")
    colour = lengths.get("S", 1) >= 3
    if colour and kind == "czi":
        raise ImageFormatError("Colour CZI files are not read rightly by the plug-in. Export it as OME-TIFF.")
    size = reader.physical_pixel_sizes
    return Layout(
        format=kind,
        dtype=str(np.dtype(reader.dtype).newbyteorder("=")),
        levels=((lengths["Y"], lengths["X"]),),
        chunks=(lengths["Y"], lengths["X"]),
        times=lengths.get("T", 1),
        channels=lengths.get("C", 1),
        planes=lengths.get("Z", 1),
        colour=colour,
        names=tuple(map(str, reader.channel_names or ())),
        pixel_size_um=square(positive(size.X), positive(size.Y)),
        z_step_um=positive(size.Z),
        time_step_s=_seconds(reader.time_interval),
        scenes=len(reader.scenes),
    )


def _seconds(interval: Any) -> float | None:
    """Return seconds from what plug-ins call a time interval: a timedelta, a number of seconds or nothing."""
    return positive(interval.total_seconds() if hasattr(interval, "total_seconds") else interval)
