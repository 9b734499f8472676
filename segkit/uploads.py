"""Images that were sent over the network: written beside their place piece by piece, checked, and only then put there.

They lie under the home folder by the hash of their contents, `uploads/<project>/<hash>/<name>`, so the same file sent twice is there once.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from segkit import results
from segkit.errors import NotWritableError, UploadError, UploadNameError, UploadTooLargeError
from segkit.files import PART, faults_in_words, flush_path, is_local, remove
from segkit.images import ImageInfo, Limits, probe

UPLOADS = "uploads"
LONGEST_NAME = 200
#: Gathered before they go to the disk.
PIECE = 2**20


def checked_name(name: str) -> str:
    """Return a file's name, when it is one and nothing else.

    Raises
    ------
    UploadNameError
        It is empty, too long, a path, hidden, or holds what cannot be printed.
    """
    name = name.strip()
    fits = 0 < len(name.encode("utf-8", "replace")) <= LONGEST_NAME and name.isprintable()
    if not fits or name.startswith(".") or set(name) & set("/\\:"):
        raise UploadNameError
    return name


class Upload:
    """A file on its way in, as a context manager: unless `place` was called, nothing of it stays.

    Parameters
    ----------
    home : str
        The home folder; a store cannot take uploads.
    project_id : int
        The project that the image is to be in.
    name : str
        What the file is called where it comes from.
    most_bytes : int
        More than this is refused.

    Raises
    ------
    UploadNameError
        The name cannot be used.
    NotWritableError, DiskFullError
        The disk says so.
    """

    def __init__(self, home: str, project_id: int, name: str, most_bytes: int) -> None:
        if not is_local(home):
            raise NotWritableError("Uploads need a home folder on a disk. Put the file into the store, and register its address.")
        self.name = checked_name(name)
        self.bytes = 0
        self._most = most_bytes
        self._folder = folder_of(home, project_id)
        self._part = self._folder / f"{PART}{uuid.uuid4().hex}{Path(self.name).suffix}"
        self._pieces: list[bytes] = []
        self._waiting = 0
        with faults_in_words(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._part, "xb")  # noqa: SIM115, closed by __exit__

    def add(self, piece: bytes) -> bool:
        """Take a piece; returns whether it is time to `write`.

        Raises
        ------
        UploadTooLargeError
            There are more bytes than allowed.
        """
        self.bytes += len(piece)
        if self.bytes > self._most:
            raise UploadTooLargeError
        self._pieces.append(piece)
        self._waiting += len(piece)
        return self._waiting >= PIECE

    def write(self) -> None:
        """Write what was taken to the disk."""
        with faults_in_words(self._part):
            self._file.writelines(self._pieces)
        self._pieces.clear()
        self._waiting = 0

    def place(self, limits: Limits) -> tuple[ImageInfo, bool]:
        """Check that it is an image, and put it where it stays.

        Returns
        -------
        ImageInfo, bool
            Of the file at its place, and whether it was not there before.

        Raises
        ------
        UploadError
            It is empty.
        ImageReadError
            It is no image that can be read; the message says why.
        """
        self.write()
        if not self.bytes:
            raise UploadError("The upload is empty. Send the file's bytes as the body of the request.")
        with faults_in_words(self._part):
            self._file.flush()
            flush_path(self._part)
        info = probe(str(self._part), limits)
        there = self._folder / info.content_hash / self.name
        new = not there.exists()
        if new:
            with faults_in_words(there):
                there.parent.mkdir(exist_ok=True)
                os.replace(self._part, there)
        return replace(info, uri=str(there), name=self.name), new

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # a full disk cannot take what is left, which nobody wants any more
            self._file.close()
        remove(self._part)


def folder_of(home: str, project_id: int) -> Path:
    """Where the uploads of a project lie; `files.remove` it when the project is deleted."""
    return Path(results.root(home)) / UPLOADS / str(project_id)


def drop(info: ImageInfo) -> None:
    """Delete a file that `Upload.place` put there, which no image needs."""
    remove(info.uri)
    with suppress(OSError):  # another name of the same contents may lie beside it
        Path(info.uri).parent.rmdir()
