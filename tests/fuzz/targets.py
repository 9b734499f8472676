"""What is fuzzed: for each target a function of bytes that raises when something is wrong, and inputs to start from."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from starlette.datastructures import Headers

from segkit import errors
from segkit.batches import parameters
from segkit.images import Limits, open_image
from segkit.pages import EPOCH, Place, decode_cursor, encode_cursor
from segkit.server import live, ranges
from segkit.server.sites import Sites
from segkit.settings import Settings, load
from tests import corpus

SMALL = Limits(max_pixels=2**20, max_decoded_pixels=2**20, cache_bytes=2**20)
SIZE = 10_000
MOST_BYTES = 4096
#: In memory where there is such a folder: a file is written for each image.
SCRATCH = Path(tempfile.mkdtemp(prefix="segkit-fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)


@dataclass(frozen=True)
class Target:
    """One thing that reads what others write."""

    feed: Callable[[bytes], None]  #: raises when what came of an input is wrong
    seeds: Callable[[], list[bytes]]


def read_image(path: Path) -> None:
    """Open an image and read its pixels; it may be refused, and no more."""
    with contextlib.suppress(errors.ImageReadError), open_image(path, SMALL) as image:
        info = image.info
        plane = image.plane()
        assert plane.shape[:2] == (info.shape[info.axes.index("Y")], info.shape[info.axes.index("X")])


def feed_file(name: str) -> Callable[[bytes], None]:
    """Return what writes an input to a file and opens it."""
    path = SCRATCH / name

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        read_image(path)

    return feed


def files(*endings: str) -> Callable[[], list[bytes]]:
    """Return what gives the small good and bad files of these endings."""

    def seeds() -> list[bytes]:
        known = corpus.good_files() | {f"bad {name}": data for name, data in corpus.bad_files().items()}
        return [data[:MOST_BYTES] for name, data in known.items() if name.endswith(endings)]

    return seeds


#: The files of a small OME-Zarr of either version; the first byte of an input says which of them the rest replaces.
ZARR_FILES = {"0.4": (".zattrs", ".zgroup", "0/.zarray", "0/0/0"), "0.5": ("zarr.json", "0/zarr.json", "0/c/0/0")}


def zarr_files() -> dict[tuple[str, str], bytes]:
    """Write the two, and return what is in them, those named above."""
    found = {}
    for version, names in ZARR_FILES.items():
        folder = SCRATCH / f"{version}.zarr"
        if not folder.exists():
            corpus.write_ome_zarr(folder, np.arange(4096, dtype=np.uint16).reshape(64, 64), "yx", version)
        for name in names:
            path = folder / name
            if path.is_file():
                found[version, name] = path.read_bytes()
    return found


class Zarr:
    """Replaces one file of a Zarr, reads the image, and puts the file back."""

    def __init__(self) -> None:
        self._files: list[tuple[tuple[str, str], bytes]] = []

    def __call__(self, data: bytes) -> None:
        if not self._files:
            self._files = list(zarr_files().items())
        if not data:
            return
        (version, name), good = self._files[data[0] % len(self._files)]
        folder = SCRATCH / f"{version}.zarr"
        (folder / name).write_bytes(data[1:])
        try:
            read_image(folder)
        finally:
            (folder / name).write_bytes(good)

    def seeds(self) -> list[bytes]:
        """Return each file as it is, and a description of codecs that are refused."""
        known = list(zarr_files().items())
        found = [bytes([number]) + data for number, (_, data) in enumerate(known)]
        for number, ((_, name), data) in enumerate(known):
            if name == "0/.zarray":
                for packer in ({"id": "pickle"}, {"id": "zlib", "level": 1}, None):
                    found.append(bytes([number]) + json.dumps(json.loads(data) | {"compressor": packer}).encode())
        return found


def feed_cursor(data: bytes) -> None:
    """Only what was given out is read, and reads as it was given out."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(errors.CursorError):
        place = decode_cursor(text, "images of project 1")
        assert encode_cursor(place, "images of project 1") == text
    cut = data[:8].ljust(8, b"\0")
    there = Place(EPOCH, int.from_bytes(cut, "little", signed=True))
    assert decode_cursor(encode_cursor(there, text), text) == there


CONDITIONS = ("if-range", "if-none-match", "if-match", "if-modified-since", "if-unmodified-since")


def feed_range(data: bytes) -> None:
    """Every piece is there, pieces are few, and together they are no more than the whole."""
    header = data.decode("latin-1")
    name = CONDITIONS[len(data) % len(CONDITIONS)]
    with contextlib.suppress(errors.PreconditionError):
        ranges.is_unchanged({name: header}, '"tag"', 1.0)
    ranges.may_continue({name: header}, '"tag"', 1.0)
    for text in (header, f"bytes={header}"):
        with contextlib.suppress(errors.RangeError):
            spans = ranges.parse(text, SIZE)
            if spans is None:
                continue
            assert 0 < len(spans) <= ranges.MOST_PIECES
            assert all(0 <= span.start < span.stop <= SIZE for span in spans)
            assert sum(span.size for span in spans) <= SIZE


NAMES = sorted(Settings.model_fields)


def feed_settings(data: bytes) -> None:
    """A value, a secret file or a settings file is taken or refused in words; a secret is in none of them."""
    if len(data) < 2:
        return
    way, name, text = data[0] % 3, NAMES[data[1] % len(NAMES)], data[2:].decode("utf-8", "surrogateescape")
    folder, file = SCRATCH / "secrets", SCRATCH / "segkit.toml"
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(errors.SettingsError):
        if way == 0:
            settings = load(**{name: text})
        else:
            place = file if way == 1 else folder / f"segkit_{name}"
            place.write_bytes(data[2:])
            os.environ["SEGKIT_CONFIG" if way == 1 else "SEGKIT_SECRETS"] = str(file if way == 1 else folder)
            try:
                settings = load()
            finally:
                os.environ.pop("SEGKIT_CONFIG", None)
                os.environ.pop("SEGKIT_SECRETS", None)
                place.unlink()
        token = settings.token and settings.token.get_secret_value()
        assert not token or len(token) < 16 or token not in repr(settings)


def settings_seeds() -> list[bytes]:
    """Return good and bad values of each way."""
    texts = [b"2 GiB", b"-1", b"1e999", b"tls://a:1", b"postgresql://u:secret@h/n", b'{"a": 1}', b"x" * 20, b"a,b", b"0", b"true", b"/a/b"]
    values = [bytes([0, number]) + text for number in range(len(NAMES)) for text in texts[number % 3 :: 3]]
    tables = [b'home = "x"\nworkers = 2\n', b"workers = 1e400", b"cluster_options = {a = [1, 2]}", b'token = "0123456789abcdef"', b"\xff"]
    return values + [b"\1\0" + table for table in tables] + [bytes([2, number]) + texts[0] for number in range(0, len(NAMES), 5)]


def feed_parameters(data: bytes) -> None:
    """A notebook's parameters cell and a value for it are read without being run; a name that is not declared is refused."""
    source, _, value = data.decode("utf-8", "replace").partition("\x00")
    cell = {"cell_type": "code", "source": source, "metadata": {"tags": ["parameters"]}, "outputs": [], "execution_count": None}
    text = json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4})
    with contextlib.suppress(errors.NotebookError):
        known = parameters.declared(parameters.read_notebook("n", text))
        assert all(name.isidentifier() for name in known)
        for name in known:
            parameters.from_text("n", known, {name: value})
    with contextlib.suppress(errors.NotebookParameterError):
        parameters.from_text("n", {}, {source: value})
        raise AssertionError("a name that is not declared was taken")


def feed_requests(data: bytes) -> None:
    """Names, origins and subscriptions of a request."""
    text = data.decode("latin-1")
    host, _, origin = text.partition("\n")
    with contextlib.suppress(errors.ForeignRequestError):
        Sites((), any_name=False).check(Headers({"host": host, "origin": origin} if origin else {"host": host}), "http", "POST")
        assert "evil" not in host.lower().split(":")[0].rstrip(".").removesuffix(".localhost")
    with contextlib.suppress(errors.SubscriptionError):
        live.subscription_asked(data)


zarr = Zarr()
RANGES = [b"bytes=0-0,-1", b"bytes=" + b"0-," * 70, b"0-99,50-149,9000-", b"-5", b"99999999999999999999-", b"items=1-2", b'W/"a", "tag"']
RANGES += [b"Sun, 06 Nov 1994 08:49:37 GMT", b"bytes= 1 - 2 ,", b"5-2"]
CELLS = [
    b"a: int = 1\nb = 'x'  # text\nc: list[int] | None = None\x00[1, 2]",
    b"a = 1\nopen('x')\nb\x001",
    b"a: Literal['x', 'y'] = 'x'\x00x",
]
TARGETS: dict[str, Target] = {
    "tiff": Target(feed_file("image.tif"), files(".tif", ".btf")),
    "png": Target(feed_file("image.png"), files(".png", ".jpg", ".bmp")),
    "zarr": Target(zarr, zarr.seeds),
    "cursor": Target(feed_cursor, lambda: [encode_cursor(Place(EPOCH, 7), "images of project 1").encode(), b"AAAA", b"\xff", b"=" * 20]),
    "range": Target(feed_range, lambda: RANGES),
    "settings": Target(feed_settings, settings_seeds),
    "parameters": Target(feed_parameters, lambda: CELLS),
    "requests": Target(
        feed_requests, lambda: [b"localhost:1", b"[::1]:8\nhttp://localhost", b'{"subscribe": {"runs": [1]}}', b"evil.example"]
    ),
}
