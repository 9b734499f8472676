"""Where an export goes: files are written beside, and moved into place only when all of them are whole."""

from __future__ import annotations

import os
import re
import unicodedata
import uuid
from pathlib import Path
from types import TracebackType

from segkit.errors import OutputExistsError
from segkit.files import PART, faults_in_words, flush_path, flush_tree, remove, replace

LONGEST_NAME = 100
#: Names that Windows keeps for devices.
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)
SUFFIXES = re.compile(r"(\.ome)?\.[A-Za-z0-9]{1,5}$")


def safe_stem(name: str) -> str:
    """Return an image's name without its ending, as a file name that every system and tool takes.

    Letters and digits of any script stay; whatever else could be a blank, a quote, a path, an option or a command becomes "_".

    Examples
    --------
    >>> safe_stem("plate 7/B'02.ome.tif")
    'plate_7_B_02'
    >>> safe_stem("-rf.png")
    '_rf'
    """
    text = SUFFIXES.sub("", unicodedata.normalize("NFC", name))
    text = re.sub(r"(\.{2,}|[^\w.+-])+", "_", text)
    text = re.sub(r"^[-.]+", "_", text).rstrip(".") or "_"
    while len(text.encode()) > LONGEST_NAME:
        text = text[:-1]
    return f"{text}_" if DEVICES.fullmatch(text.split(".")[0]) else text


class Output:
    """A folder that an export fills, as a context manager.

    Parameters
    ----------
    out : path
        A folder; or, for a format that writes one file, the file: a path that ends as the format's files do.
    single : str, optional
        Name of the one file that the format writes; its ending tells files from folders in `out`.
    overwrite : bool
        Replace files that are there. Other files in the folder are left alone in any case.
    """

    def __init__(self, out: Path, single: str | None, overwrite: bool) -> None:
        self._named = single is not None and out.suffix.lower() == Path(single).suffix and not out.is_dir()
        self.folder = out.parent if self._named else out
        self.single = out.name if self._named else (single or "")
        self._overwrite = overwrite
        self._part = self.folder / f"{PART}{uuid.uuid4().hex[:8]}"
        self._made: list[Path] = []
        self._stems: set[str] = set()
        self._folders: list[str] = []

    @property
    def path(self) -> Path:
        """What the export writes: the file, or the folder."""
        return self.folder / self.single

    def __enter__(self) -> Output:
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputExistsError(f"{self.folder} is a file; the export needs a folder. Choose another place.")
        if self.single:
            self._refuse_existing(Path(self.single))
        with faults_in_words(self.folder):
            self._made = [each for each in (self.folder, *self.folder.parents) if not each.exists()]
            self._part.mkdir(parents=True)
        return self

    def stem(self, name: str) -> str:
        """Return the safe name of an image's files; images of the same name get a number."""
        first = safe_stem(name)
        stem, number = first, 1
        while stem.casefold() in self._stems:
            number += 1
            stem = f"{first}_{number}"
        self._stems.add(stem.casefold())
        return stem

    def place(self, name: str) -> Path:
        """Return where to write a file of this name, relative to the output folder.

        Raises
        ------
        OutputExistsError
            It is there already.
        """
        self._refuse_existing(Path(name))
        path = self._part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def place_folder(self, name: str) -> Path:
        """Return where to write a folder that replaces an older one as a whole."""
        self._folders.append(name)
        return self.place(name)

    def scratch(self) -> Path:
        """Return a path for a file that does not belong to the output."""
        place = self._part / PART
        place.mkdir(exist_ok=True)
        return place / uuid.uuid4().hex

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                with faults_in_words(self.folder):
                    self._move()
        finally:
            remove(self._part)
            if kind is not None:
                self._remove_made()
        if isinstance(error, OSError):
            with faults_in_words(self.path):
                raise error

    def _move(self) -> None:
        remove(self._part / PART)
        flush_tree(self._part)
        for name in self._folders:
            replace(self._part / name, self.folder / name)
        for place, folders, names in os.walk(self._part):
            there = self.folder / Path(place).relative_to(self._part)
            there.mkdir(exist_ok=True)
            for name in [*names, *(each for each in folders if os.path.islink(os.path.join(place, each)))]:
                os.replace(os.path.join(place, name), there / name)
            flush_path(there)

    def _remove_made(self) -> None:
        for each in self._made:
            if each.is_dir() and not any(each.iterdir()):
                each.rmdir()

    def _refuse_existing(self, name: Path) -> None:
        path = self.folder / name
        if not self._overwrite and os.path.lexists(path):
            raise OutputExistsError(
                f"{path} is there already and would be overwritten. Choose another place, or pass overwrite=True (--force)."
            )
