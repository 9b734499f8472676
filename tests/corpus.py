"""Image files made in code: good ones of every format, and bad ones of every kind that people and disks produce.

Other tests use them: `write_good(folder)` and `write_bad(folder)` return where each file is, by a name that says what it is.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image

from segkit.images import Selection, open_image

ROWS, COLUMNS = 60, 80
FRACTIONS = (0.1, 0.5, 0.9, 0.99)
#: Names that scripts, shells and tables stumble over.
AWKWARD_NAMES = (
    "with space.tif",
    'it\'s "quoted".tif',
    "🔬 cells.tif",
    "-rf.tif",
    "new\nline.tif",
    "100%_#1.tif",
    "[1].tif",
    "Passw0rd!.tif",
    "a" * 200 + ".tif",
)


def gray(dtype: str = "uint16", rows: int = ROWS, columns: int = COLUMNS, seed: int = 0) -> NDArray[Any]:
    """Make (rows, columns) of smooth blobs with some noise, spread over half of the type's range."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[:rows, :columns]
    waves = np.sin(down / 7 + seed) * np.cos(across / 9) + random.normal(0, 0.05, (rows, columns))
    unit = (waves - waves.min()) / (waves.max() - waves.min())
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return unit > 0.5
    if kind.kind == "f":
        return unit.astype(kind)
    return (unit * (np.iinfo(kind).max // 2)).astype(kind)


def colour(dtype: str = "uint8", samples: int = 3) -> NDArray[Any]:
    """Make (rows, columns, samples) of colour; a fourth sample is alpha."""
    return np.stack([gray(dtype, seed=seed) for seed in range(samples)], axis=-1)


def stack(*lengths: int, dtype: str = "uint16") -> NDArray[Any]:
    """Make (*lengths, rows, columns) in which every plane differs."""
    planes = [gray(dtype, seed=seed) for seed in range(int(np.prod(lengths)))]
    return np.reshape(planes, (*lengths, ROWS, COLUMNS))


def png(pixels: NDArray[Any], **options: Any) -> bytes:
    """Return a PNG file of an array."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    """Return a TIFF file of an array."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def ome_tiff(pixels: NDArray[Any], axes: str, **options: Any) -> bytes:
    """Return an OME-TIFF file of an array."""
    return tiff(pixels, ome=True, metadata={"axes": axes, **options.pop("metadata", {})}, **options)


def raw_tiff(tags: dict[int, tuple[int, Any]], data: bytes = b"", following: int = 0) -> bytes:
    """Return a TIFF file of one directory, made of tags: code → (type, value or values); data lies behind it.

    `following` is where the next directory is said to be. The value "data" of a tag means where the data lie.
    """
    sizes = {3: ("H", 2), 4: ("I", 4)}
    count = len(tags)
    end = 8 + 2 + 12 * count + 4
    extra = b""
    entries = b""
    lists = {code: list(value) if isinstance(value, tuple | list) else [value] for code, (_, value) in tags.items()}
    room = sum(len(lists[code]) * sizes[kind][1] for code, (kind, _) in tags.items() if len(lists[code]) * sizes[kind][1] > 4)
    for code, (kind, _) in sorted(tags.items()):
        values = [end + room if value == "data" else value for value in lists[code]]
        letter, _ = sizes[kind]
        packed = struct.pack(f"<{len(values)}{letter}", *values)
        if len(packed) > 4:
            entries += struct.pack("<HHII", code, kind, len(values), end + len(extra))
            extra += packed
        else:
            entries += struct.pack("<HHI", code, kind, len(values)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, count) + entries + struct.pack("<I", following) + extra + data


def simple_tags(columns: int, rows: int, data_bytes: int, compression: int = 1, bits: int = 8) -> dict[int, tuple[int, Any]]:
    """Return the tags of a gray image with one strip."""
    return {
        256: (4, columns),
        257: (4, rows),
        258: (3, bits),
        259: (3, compression),
        262: (3, 1),
        273: (4, "data"),
        277: (3, 1),
        278: (4, min(rows, 2**32 - 1)),
        279: (4, data_bytes),
    }


def changed(data: bytes, start: int, replacement: bytes) -> bytes:
    """Return data with some of it overwritten."""
    return data[:start] + replacement + data[start + len(replacement) :]


def zeros_compressed(size: int) -> bytes:
    """Return a zlib stream of `size` zeros without ever holding them."""
    pack = zlib.compressobj(9)
    block = bytes(2**20)
    parts = [pack.compress(block) for _ in range(size // len(block))]
    return b"".join(parts) + pack.compress(bytes(size % len(block))) + pack.flush()


def png_of_zeros(columns: int, rows: int, rows_present: int) -> bytes:
    """Return a gray PNG of a size, of which only some rows are there."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zeros_compressed((columns + 1) * rows_present)) + chunk(b"IEND", b"")


def write_ome_zarr(folder: Path, pixels: NDArray[Any], axes: str, version: str = "0.4", levels: int = 1, pixel_size: float = 0.5) -> Path:
    """Write an OME-Zarr 0.4 or 0.5 image with every second row and column in each further level."""
    group = zarr.open_group(folder, mode="w", zarr_format=2 if version == "0.4" else 3)
    units = {
        "t": ("time", "second"),
        "c": ("channel", None),
        "z": ("space", "micrometer"),
        "y": ("space", "micrometer"),
        "x": ("space", "micrometer"),
    }
    described = [{"name": axis, "type": units[axis][0]} | ({"unit": units[axis][1]} if units[axis][1] else {}) for axis in axes]
    datasets = []
    for level in range(levels):
        part = pixels[..., :: 2**level, :: 2**level]
        array = group.create_array(str(level), shape=part.shape, chunks=(1,) * (part.ndim - 2) + (32, 32), dtype=part.dtype)
        array[...] = part
        scale = [{"t": 5.0, "c": 1.0, "z": 2.0}.get(axis, pixel_size * 2**level) for axis in axes]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    names = [{"label": f"channel {chr(65 + number)}"} for number in range(pixels.shape[axes.index("c")] if "c" in axes else 1)]
    metadata: dict[str, Any] = {
        "multiscales": [{"version": version, "axes": described, "datasets": datasets, "name": "image"}],
        "omero": {"channels": names},
    }
    if version == "0.4":
        group.attrs.update(metadata)
    else:
        del metadata["multiscales"][0]["version"]
        group.attrs["ome"] = {"version": version, **metadata}
    return folder


def lif(pixels: NDArray[np.uint16], pixel_size_um: float = 0.5, z_step_um: float = 2.0) -> bytes:
    """Return a LIF file of one image, (channels, planes, rows, columns)."""
    count, depth, rows, columns = pixels.shape
    channels = "".join(
        f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="16" NameOfMeasuredQuantity="" Min="0" Max="65535" Unit=""'
        f' LUTName="{name}" IsLUTInverted="0" BytesInc="{number * pixels[0].nbytes}" BitInc="0"/>'
        for number, name in zip(range(count), ("Red", "Green", "Blue"), strict=False)
    )
    axes = ((1, columns, pixel_size_um, 2), (2, rows, pixel_size_um, 2 * columns), (3, depth, z_step_um, 2 * rows * columns))
    dimensions = "".join(
        f'<DimensionDescription DimID="{axis}" NumberOfElements="{length}" Origin="0" Length="{(length - 1) * step * 1e-6}" Unit="m"'
        f' BitInc="0" BytesInc="{size}"/>'
        for axis, length, step, size in axes
    )
    described = f"<Channels>{channels}</Channels><Dimensions>{dimensions}</Dimensions>"
    image = f'<Image TextDescription=""><ImageDescription>{described}</ImageDescription></Image>'
    header = (
        '<LMSDataContainerHeader Version="2"><Element Name="p.lif" Visibility="1" UniqueID="a">'
        '<Data><Experiment Path="p.lif" IsSavedFlag="1"/></Data><Memory Size="0" MemoryBlockID="MemBlock_0"/><Children>'
        f'<Element Name="Series001" Visibility="1" UniqueID="b"><Data>{image}</Data>'
        f'<Memory Size="{pixels.nbytes}" MemoryBlockID="MemBlock_1"/><Children/></Element></Children></Element></LMSDataContainerHeader>'
    )

    def block(body: bytes) -> bytes:
        return struct.pack("<II", 0x70, len(body)) + body

    def text(words: str) -> bytes:
        return b"\x2a" + struct.pack("<I", len(words)) + words.encode("utf-16-le")

    blocks = (("MemBlock_0", b""), ("MemBlock_1", pixels.tobytes()))
    memory = b"".join(block(b"\x2a" + struct.pack("<Q", len(data)) + text(name)) + data for name, data in blocks)
    return block(text(header)) + memory


def good_files() -> dict[str, bytes]:
    """Return one file of every form that is read, by file name."""
    files = {
        "plain.tif": tiff(gray()),
        "big.btf": tiff(gray(), bigtiff=True),
        "motorola.tif": tiff(gray(), byteorder=">"),
        "zlib.tif": tiff(gray(), compression="zlib", predictor=True, rowsperstrip=7),
        "lzw.tif": tiff(gray(), compression="lzw", rowsperstrip=16),
        "zstd tiled.tif": tiff(gray(), compression="zstd", tile=(32, 48)),
        "jpeg tiled.tif": tiff(gray("uint8"), compression="jpeg", tile=(32, 32)),
        "rgb.tif": tiff(colour(), photometric="rgb"),
        "rgba.tif": tiff(colour(samples=4), photometric="rgb", extrasamples=["unassalpha"]),
        "rgb 16 bit.tif": tiff(colour("uint16"), photometric="rgb", compression="zlib"),
        "rgb planar.tif": tiff(np.moveaxis(colour(), -1, 0), photometric="rgb", planarconfig="separate"),
        "white is zero.tif": tiff(gray("uint8"), photometric="miniswhite"),
        "palette.tif": tiff(
            gray("uint8"), photometric="palette", colormap=np.random.default_rng(0).integers(0, 65535, (3, 256), dtype=np.uint16)
        ),
        "pages.tif": tiff(stack(4), metadata=None, photometric="minisblack"),
        "imagej.tif": tiff(
            stack(2, 3, 2), imagej=True, resolution=(2.0, 2.0), metadata={"axes": "TZCYX", "unit": "um", "spacing": 1.5, "finterval": 3.0}
        ),
        "channels.ome.tif": ome_tiff(
            stack(2, 3),
            "CZYX",
            metadata={"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 1.0, "Channel": {"Name": ["DAPI", "GFP"]}},
        ),
        "1 pixel wide.tif": tiff(gray(columns=1)),
        "1 pixel.tif": tiff(gray(rows=2, columns=2)[:1, :1]),
        "all zero.tif": tiff(np.zeros((ROWS, COLUMNS), np.uint16)),
        "saturated.tif": tiff(np.full((ROWS, COLUMNS), 65535, np.uint16)),
        "not a number.tif": tiff(np.where(gray("float32") > 0.9, np.nan, gray("float32"))),
        "infinite.tif": tiff(np.where(gray("float32") > 0.9, np.inf, gray("float32"))),
        "gray.png": png(gray("uint8")),
        "gray 16 bit.png": png(gray("uint16")),
        "rgb.png": png(colour()),
        "rgba.png": png(colour(samples=4)),
        "rgb 16 bit.png": imagecodecs.png_encode(colour("uint16")),
        "black and white.png": png(gray("bool")),
        "rgb.jpg": imagecodecs.jpeg_encode(colour(), level=95),
        "gray.jpg": imagecodecs.jpeg_encode(gray("uint8"), level=95),
    }
    for dtype in ("bool", "int8", "uint8", "int16", "uint32", "int64", "float16", "float64"):
        files[f"{dtype}.tif"] = tiff(gray(dtype))
    for name, mode in (("rgb.bmp", "RGB"), ("gray.bmp", "L"), ("palette.png", "P")):
        buffer = io.BytesIO()
        picture = Image.fromarray(colour())
        (picture.quantize(16) if mode == "P" else picture.convert(mode)).save(buffer, name.rpartition(".")[2].upper())
        files[name] = buffer.getvalue()
    return files


def bad_files() -> dict[str, bytes]:
    """Return files that must not be read as if they were whole, by file name."""
    whole = {
        "plain.tif": tiff(gray()),
        "zlib.tif": tiff(gray(), compression="zlib", rowsperstrip=8),
        "lzw.tif": tiff(gray(), compression="lzw", rowsperstrip=8),
        "planes.ome.tif": ome_tiff(stack(3), "ZYX"),
        "imagej.tif": tiff(stack(3), imagej=True),
        "gray.png": png(gray("uint8")),
        "photo.jpg": imagecodecs.jpeg_encode(colour()),
        "gray.bmp": _bmp(gray("uint8")),
    }
    files = {f"cut at {fraction:.0%} {name}": data[: int(len(data) * fraction)] for name, data in whole.items() for fraction in FRACTIONS}
    strip = len(whole["zlib.tif"]) - 200
    flat = simple_tags(100, 100, 10_000)
    files |= {
        "empty.tif": b"",
        "empty.png": b"",
        "one byte.tif": b"I",
        "header only.tif": b"II*\0\x08\0\0\0",
        "unfinished.tif": b"II*\0\0\0\0\0",
        "zeros.tif": bytes(4096),
        "noise.tif": np.random.default_rng(1).bytes(4096),
        "corrupt zlib.tif": changed(whole["zlib.tif"], strip, b"\xff" * 100),
        "corrupt png.png": changed(whole["gray.png"], len(whole["gray.png"]) // 2, b"\xff" * 64),
        "text.tif": b"Sample 7, 24 h, stained with DAPI\n",
        "web page.png": b"<!DOCTYPE html><html><body>Please log in</body></html>",
        "archive.tif": b"PK\x03\x04" + bytes(100),
        "pointer.tif": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "json.tif": b'{"multiscales": []}',
        "0 x 0.tif": raw_tiff(simple_tags(0, 0, 4), bytes(4)),
        "zero width.tif": raw_tiff(simple_tags(0, 100, 4), bytes(4)),
        "zero height.tif": raw_tiff(simple_tags(100, 0, 4), bytes(4)),
        "2^31-1 wide.tif": raw_tiff(simple_tags(2**31 - 1, 2**31 - 1, 100), bytes(100)),
        "10^6 x 10^6.tif": raw_tiff(simple_tags(10**6, 10**6, 100), bytes(100)),
        "200000 x 200000 in one strip.tif": raw_tiff(
            simple_tags(200_000, 200_000, 1000, compression=8), zlib.compress(bytes(1000)).ljust(1000)
        ),
        "directory points at itself.tif": raw_tiff(flat, bytes(10_000), following=8),
        "directory points nowhere.tif": raw_tiff(flat, bytes(10_000), following=2**31),
        "strip behind the end.tif": raw_tiff(flat | {273: (4, 2**30)}, bytes(10_000)),
        "strip too short.tif": raw_tiff(simple_tags(100, 100, 5_000), bytes(5_000)),
        "strips missing.tif": raw_tiff(flat | {278: (4, 10)}, bytes(10_000)),
        "no strips.tif": raw_tiff({code: tag for code, tag in flat.items() if code not in (273, 279)}, bytes(10_000)),
        "never written.tif": raw_tiff(flat | {273: (4, 0), 279: (4, 0)}, bytes(10_000)),
        "unknown compression.tif": raw_tiff(simple_tags(100, 100, 10_000, compression=12345), bytes(10_000)),
        "3 bits.tif": raw_tiff(simple_tags(100, 100, 100, bits=77), bytes(10_000)),
        "60000 samples.tif": raw_tiff(flat | {277: (3, 60_000)}, bytes(10_000)),
        "4096 tags.tif": b"II*\0\x08\0\0\0" + struct.pack("<H", 4097) + bytes(12 * 4097 + 4),
        "4 GiB in 4 MB of zlib.tif": raw_tiff(
            simple_tags(65_536, 65_536, 4_200_000, compression=8), zeros_compressed(2**27).ljust(4_200_000)
        ),
        "unpacks to more than it says.tif": raw_tiff(
            simple_tags(100, 100, 130_000, compression=8), zeros_compressed(2**27)[:130_000].ljust(130_000)
        ),
        "jpeg larger than its tile.tif": _jpeg_bomb(),
        "complex.tif": tiff(gray("float32").astype(np.complex64)),
        "six axes.tif": tiff(np.zeros((2, 2, 2, 2, 8, 8), np.uint8), metadata={"axes": "TPCZYX"}),
        "90000 x 90000.png": png_of_zeros(90_000, 90_000, 1),
        "promises more rows.png": png_of_zeros(2_000, 2_000, 10),
        "0 x 0.png": png_of_zeros(0, 0, 0),
        "huge.bmp": changed(_bmp(gray("uint8")), 18, struct.pack("<ii", 10**6, 10**6)),
        "huge.jpg": _taller_jpeg(whole["photo.jpg"]),
    }
    return files


def write_good(folder: Path) -> dict[str, Path]:
    """Write one image of every form that is read; return where each is, by name."""
    paths = _write(folder, good_files())
    for name in AWKWARD_NAMES:
        (folder / name).write_bytes(tiff(gray("uint8")))
        paths[name] = folder / name
    for version, levels in (("0.4", 3), ("0.5", 2)):
        name = f"multiscale {version}.ome.zarr"
        paths[name] = write_ome_zarr(folder / name, stack(2, 2, 3), "tczyx", version, levels)
    return paths


def write_bad(folder: Path) -> dict[str, Path]:
    """Write every bad file; return where each is, by name. "missing.tif" is not there."""
    paths = _write(folder, bad_files())
    paths["missing.tif"] = folder / "missing.tif"
    paths["folder.tif"] = folder / "folder.tif"
    paths["folder.tif"].mkdir()
    paths["pipe.tif"] = folder / "pipe.tif"
    os.mkfifo(paths["pipe.tif"])
    for name, harm in _ZARR_HARMS.items():
        path = write_ome_zarr(folder / f"{name}.zarr", gray(), "yx")
        harm(path)
        paths[f"{name}.zarr"] = path
    return paths


def _write(folder: Path, files: dict[str, bytes]) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in files}


def _bmp(pixels: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    return buffer.getvalue()


def _taller_jpeg(data: bytes) -> bytes:
    """Let a JPEG claim 65,500 × 65,500 pixels."""
    frame = data.index(b"\xff\xc0")
    return changed(data, frame + 5, struct.pack(">HH", 65_500, 65_500))


def _jpeg_bomb() -> bytes:
    """Put a JPEG of 65,500 × 65,500 pixels into a TIFF of 64 × 64."""
    data = _taller_jpeg(imagecodecs.jpeg_encode(gray("uint8")))
    return raw_tiff(simple_tags(64, 64, len(data), compression=7), data)


def _delete(name: str) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        for found in path.glob(name):
            found.unlink()

    return harm


def _replace(name: str, data: bytes) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        (path / name).write_bytes(data)

    return harm


#: What happens to OME-Zarr folders.
_ZARR_HARMS: dict[str, Callable[[Path], None]] = {
    "no metadata": _delete(".zattrs"),
    "no array": _delete("0/.zarray"),
    "broken metadata": _replace(".zattrs", b'{"multiscales": ['),
    "empty metadata": _replace(".zattrs", b"{}"),
    "outside": _replace(".zattrs", b'{"multiscales": [{"datasets": [{"path": "../../etc"}], "axes": ["y", "x"]}]}'),
    "strange axes": _replace(".zattrs", b'{"multiscales": [{"datasets": [{"path": "0"}], "axes": ["q", "x"]}]}'),
    "huge": _replace(
        "0/.zarray",
        b'{"zarr_format": 2, "shape": [1000000, 1000000], "chunks": [1000000, 1000000], "dtype": "<u2",'
        b' "compressor": null, "fill_value": 0, "order": "C", "filters": null}',
    ),
    "corrupt chunk": _replace("0/0.0", b"\xff" * 100),
    "empty chunk": _replace("0/0.0", b""),
}


# How the tests of images look at these files


@contextlib.contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Yield a function that tells by how many bytes the process has grown at most since the block began."""
    counters = Path("/proc/self/clear_refs")
    if not os.access(counters, os.W_OK):
        pytest.skip("skipped: no /proc to reset the peak of memory")

    def peak() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

    counters.write_text("5")
    before = peak()
    yield lambda: peak() - before


def read(path: Path | str, selection: Selection | None = None, moment: int = 0) -> Any:
    with open_image(path) as image:
        return image.plane(selection or Selection(), moment)
