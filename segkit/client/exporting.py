"""Exports over HTTP: built by the service, downloaded, and put where the library itself would put them."""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import TypeAdapter

from segkit import exports
from segkit.client.connection import Connection, looks
from segkit.client.downloads import download
from segkit.client.faults import told_as
from segkit.errors import DownloadError
from segkit.exports.output import Output
from segkit.files import remove

DOWNLOADS = "/api/download/"
#: Suffix of a folder that is one image, and is replaced as a whole.
ZARR = ".zarr"
PIECE = 2**20


@dataclass(frozen=True)
class Build:
    """An export that the service builds, or has built."""

    format: str
    state: Literal["waiting", "running", "done", "failed"] | None
    done: int  #: images written
    total: int
    download: str | None
    error: str | None  #: why it was not built
    problem: str | None = None  #: what kind of error that is


BUILD = TypeAdapter(Build)


def export(
    connection: Connection, run: int, format: str, out: Path, overwrite: bool, progress: Callable[[int, str], None] | None = None
) -> Path:
    """Have a run exported and download what was written.

    Raises
    ------
    UnknownExportError
        There is no such format.
    OutputExistsError
        Something is there and `overwrite` is false.
    NoResultError
        Nothing is done yet.
    """
    path = f"/api/runs/{run}/exports/{quote(format, safe='')}"
    known = exports.FORMATS.get(format)
    single = known.single if known else None
    with Output(out, single, overwrite) as output:
        place = built(connection, path, progress)
        if single is not None:
            return download(connection, place, output.path, overwrite=overwrite)
        packed = output.folder.absolute().with_name(f".{output.folder.name}-run-{run}-{format}.zip")
        try:
            download(connection, place, packed, overwrite=True)
            unpack(packed, output)
        finally:
            remove(packed)  # what came of a download that broke off has another name, and stays for the next call
    return output.path


def built(connection: Connection, path: str, progress: Callable[[int, str], None] | None) -> str:
    """Wait until the service has built an export; returns where to download it."""
    build, told, pauses = connection.post(BUILD, path, repeat=True), 0, looks()
    while build.state in ("waiting", "running", None):
        time.sleep(next(pauses))
        build = connection.get(BUILD, path)
        if progress is not None and build.done > told:
            progress(build.done - told, build.format)
        told = max(told, build.done)
    if build.download is None:
        raise told_as(build.problem, build.error)
    if progress is not None and build.total > told:
        progress(build.total - told, build.format)
    return build.download[build.download.index(DOWNLOADS) :]


def unpack(packed: Path, output: Output) -> None:
    """Unpack an archive into an output; every file's checksum is compared.

    Raises
    ------
    DownloadError
        The archive is damaged, or names a place outside the output.
    OutputExistsError
        A file is there already.
    """
    folders: dict[str, Path] = {}
    try:
        with zipfile.ZipFile(packed) as archive:
            for member in archive.infolist():
                if not is_below(member.filename):
                    raise DownloadError(f"The archive names a file outside of it: {member.filename!r}.")
                with archive.open(member) as source, open(place_of(member.filename, output, folders), "wb") as target:
                    shutil.copyfileobj(source, target, PIECE)
    except zipfile.BadZipFile as error:
        raise DownloadError(f"The archive that came is damaged: {error}. Ask for it again.") from error


def place_of(name: str, output: Output, folders: dict[str, Path]) -> Path:
    """Return where to write a member of an archive; a folder that is one image replaces an older one as a whole."""
    top, _, rest = name.partition("/")
    if not rest or not top.endswith(ZARR):
        return output.place(name)
    if top not in folders:
        folders[top] = output.place_folder(top)
    place = folders[top] / rest
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def is_below(name: str) -> bool:
    """Whether a name in an archive leads to a file below its folder.

    Examples
    --------
    >>> is_below("labels/a.tif"), is_below("../a.tif"), is_below("/a.tif")
    (True, False, False)
    """
    return all(part not in ("", ".", "..") and "\\" not in part for part in name.split("/"))
