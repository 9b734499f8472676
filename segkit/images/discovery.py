"""Where the images are: a folder, a pattern, a list or a URL turned into the URIs of candidate images, in order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from segkit.images.ome_zarr import MARKERS, images_in
from segkit.images.storage import file_system, is_url, normalise

#: Names of files that a folder is searched for.
TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".tf2", ".svs", ".ndpi", ".qptiff", ".lsm")
SUFFIXES = frozenset((*TIFF_SUFFIXES, ".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".dib", ".czi", ".nd2", ".lif"))
#: A folder with this in it is segkit's own and is not searched.
HOME_MARKER = "segkit.db"
WILDCARDS = frozenset("*?[")


def discover(where: str | Path | Iterable[str | Path]) -> Iterator[str]:
    """Yield the URIs of candidate images, sorted, each once.

    A folder is searched with everything below it for files with the suffix of an image; hidden files and folders are
    left out, and an OME-Zarr folder is one image (a plate or collection: each image in it). What is named itself, or
    matched by a pattern with a suffix, is a candidate whatever its suffix, even when it is not there: `probe` says why
    it cannot be read.

    Parameters
    ----------
    where : str, Path or iterable of them
        A file, folder, pattern such as "plate7/*.tif", or URL; or several.

    Yields
    ------
    str
        Absolute path or URL.

    Examples
    --------
    >>> list(discover("/data/not there.tif"))
    ['/data/not there.tif']
    """
    seen: set[str] = set()
    places = [where] if isinstance(where, str | Path) else where
    for place in places:
        for uri in _candidates(normalise(place)):
            if uri not in seen:
                seen.add(uri)
                yield uri


def _candidates(uri: str) -> Iterator[str]:
    tree = _StoreTree(uri) if is_url(uri) else _LocalTree()
    place = tree.place(uri)
    if tree.exists(place) or not WILDCARDS & set(place):
        yield from _below(tree, place) if tree.is_folder(place) else [tree.uri(place)]
        return
    suffix = os.path.splitext(place)[1]
    any_suffix = bool(suffix) and not WILDCARDS & set(suffix)
    for match in sorted(tree.matches(place)):
        if tree.is_folder(match):
            yield from _below(tree, match)
        elif any_suffix or _looks_like_image(match):
            yield tree.uri(match)


def _looks_like_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES


class _LocalTree:
    """Folders of a disk."""

    def place(self, uri: str) -> str:
        return uri

    def uri(self, place: str) -> str:
        return place

    def exists(self, place: str) -> bool:
        return os.path.lexists(place)

    def is_folder(self, place: str) -> bool:
        return os.path.isdir(place)

    def matches(self, pattern: str) -> list[str]:
        return glob.glob(pattern, recursive=True)

    def entries(self, place: str) -> list[tuple[str, bool]]:
        """Return name and whether it is a folder, of everything in a folder."""
        with os.scandir(place) as found:
            return [(entry.name, entry.is_dir()) for entry in found]

    def identity(self, place: str) -> Any:
        """Return what two ways to the same folder have in common."""
        status = os.stat(place)
        return status.st_dev, status.st_ino


class _StoreTree:
    """Folders of an fsspec store."""

    def __init__(self, uri: str) -> None:
        self._system, self._place = file_system(uri)
        # Only the beginning differs between a URL and its path in the store; found places get the URL's.
        first_wildcard = min((self._place.find(sign) for sign in WILDCARDS if sign in self._place), default=len(self._place))
        varying = len(self._place) - self._place.rfind("/", 0, first_wildcard) if first_wildcard < len(self._place) else 0
        self._from, self._to = (text[: len(text) - varying] for text in (self._place.rstrip("/"), uri))

    def place(self, uri: str) -> str:
        return self._place

    def uri(self, place: str) -> str:
        return self._to + place.removeprefix(self._from)

    def exists(self, place: str) -> bool:
        return bool(self._system.exists(place))

    def is_folder(self, place: str) -> bool:
        return bool(self._system.isdir(place))

    def matches(self, pattern: str) -> list[str]:
        return list(self._system.glob(pattern))

    def entries(self, place: str) -> list[tuple[str, bool]]:
        details = self._system.ls(place, detail=True)
        return [(detail["name"].rstrip("/").rpartition("/")[2], detail["type"] == "directory") for detail in details]

    def identity(self, place: str) -> Any:
        return place


def _below(tree: _LocalTree | _StoreTree, place: str) -> Iterator[str]:
    """Yield the images in a folder and below, in the order of their names."""
    yield from _walk(tree, place, set())


def _walk(tree: _LocalTree | _StoreTree, place: str, seen: set[Any]) -> Iterator[str]:
    try:
        identity, entries = tree.identity(place), sorted(tree.entries(place))
    except PermissionError:
        yield tree.uri(place)  # named, so that it is listed with the reason why nothing in it is
        return
    if identity in seen:  # a link that leads back up
        return
    seen.add(identity)
    names = {name for name, _ in entries}
    if not names.isdisjoint(MARKERS):
        yield from images_in(tree.uri(place))
        return
    if HOME_MARKER in names:
        return
    for name, is_folder in entries:
        if name.startswith("."):
            continue
        path = f"{place.rstrip('/')}/{name}"
        if is_folder:
            yield from _walk(tree, path, seen)
        elif _looks_like_image(name):
            yield tree.uri(path)
