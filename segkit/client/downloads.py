"""Downloads that go on from where they stopped: after a break in this call, and in a later one.

What has arrived lies in `NAME.part`, and beside it in `NAME.part.etag` which version of the file it is of. The rest is asked for with
`Range` and `If-Range`, so the service sends the whole file when it is another one by now. The file gets its name when it is whole.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO

import httpx
from tqdm.auto import tqdm

from segkit.client.connection import PAUSES, Connection
from segkit.errors import DownloadError, NotAServiceError, OutputExistsError, ServiceUnreachableError
from segkit.files import faults_in_words, flush_path, remove

#: Attempts in a row that bring nothing, before a download is given up.
FRUITLESS = len(PAUSES) + 1
PART, TAG = ".part", ".part.etag"
#: Packed bytes would be counted otherwise than the service counts them.
AS_IT_IS = {"Accept-Encoding": "identity"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offer:
    """What the service has to download, as it was asked for."""

    name: str  #: that it is to be saved as
    size: int
    tag: str  #: strong ETag: another one means other bytes


def download(connection: Connection, path: str, out: str | Path, *, overwrite: bool = False, bar: bool = True) -> Path:
    """Download a file, or the rest of one.

    Parameters
    ----------
    connection
        To the service.
    path : str
        What to download, below the service's address, such as "/api/download/runs/7.zip".
    out : path
        File to write, or a folder in which it gets the name that the service gives it.
    overwrite : bool
        Replace a file that is there.
    bar : bool
        Show a progress bar.

    Returns
    -------
    Path
        The file, whole.

    Raises
    ------
    OutputExistsError
        It is there already, or is being downloaded by somebody else.
    DownloadError, ServiceUnreachableError
        It did not come whole; what has come stays for the next call.
    DiskFullError, NotWritableError
        The disk says so.
    """
    offer = offered(connection, path)
    place = Path(out) / offer.name if Path(out).is_dir() else Path(out)
    if not overwrite and os.path.lexists(place):
        raise OutputExistsError(f"{place} is there already and would be overwritten. Choose another place, or pass overwrite=True.")
    part = place.with_name(place.name + PART)
    with faults_in_words(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with alone(part) as file, tqdm(total=offer.size, unit="B", unit_scale=True, desc=place.name, disable=not bar) as progress:
            fill(connection, path, offer, file, place.with_name(place.name + TAG), progress)
            os.replace(part, place)
        remove(place.with_name(place.name + TAG))
        flush_path(place.parent)
    return place


def offered(connection: Connection, path: str) -> Offer:
    """Ask what there is to download."""
    answer = connection.request("HEAD", path, headers=AS_IT_IS)
    size = answer.headers.get("content-length", "")
    if not size.isdigit():
        raise NotAServiceError(f"What answers for {path} does not tell its size, so it could be cut unnoticed. {NotAServiceError()}")
    return Offer(name_of(answer) or path.rpartition("/")[2], int(size), answer.headers.get("etag", ""))


def name_of(answer: httpx.Response) -> str:
    """Return under which name the service would have a file saved; never a path."""
    message = Message()
    message["Content-Disposition"] = answer.headers.get("content-disposition", "")
    return os.path.basename((message.get_filename() or "").replace("\\", "/")).lstrip(".")


@contextmanager
def alone(part: Path) -> Iterator[IO[bytes]]:
    """Open what has arrived, for this process alone.

    Raises
    ------
    OutputExistsError
        Another one writes it now.
    """
    with open(part, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputExistsError(f"{part} is being downloaded by another process. Wait for it, or choose another place.") from None
        except OSError as error:
            log.debug("%s cannot be locked: %s", part, error)  # as on some file systems of clusters, where nobody can be kept out
        yield file


def fill(connection: Connection, path: str, offer: Offer, file: IO[bytes], kept_tag: Path, progress: tqdm) -> None:
    """Fetch what a file lacks, in as many attempts as bring something."""
    if not offer.tag or not kept_tag.exists() or kept_tag.read_text() != offer.tag:
        file.truncate(0)
        kept_tag.write_text(offer.tag)
    fruitless = 0
    while True:
        had = size_of(file)
        show(progress, had)
        if had == offer.size:
            break
        if had > offer.size:
            restart(file, progress)
        try:
            fetch(connection, path, offer, file, progress)
        except ServiceUnreachableError:
            fruitless = fruitless + 1 if size_of(file) == had else 0
            if fruitless == FRUITLESS:
                raise
            time.sleep(PAUSES[min(fruitless, len(PAUSES) - 1)])
    with faults_in_words(kept_tag):
        file.flush()
        os.fsync(file.fileno())


def fetch(connection: Connection, path: str, offer: Offer, file: IO[bytes], progress: tqdm) -> None:
    """Ask for the rest of a file, and append it.

    Raises
    ------
    DownloadError
        The file was replaced, or the service sends something else than was asked for.
    ServiceUnreachableError
        The answer broke off; what has come is in the file.
    """
    if not offer.tag:
        restart(file, progress)  # without it nobody knows whether the rest is of the same file
    start = size_of(file)
    headers = AS_IT_IS | ({"Range": f"bytes={start}-", "If-Range": offer.tag} if start else {})
    with connection.stream(path, headers=headers) as answer:
        if answer.headers.get("etag", "") != offer.tag:
            raise DownloadError(f"{path} was replaced while it was being downloaded. Ask for it again: it begins anew.")
        if answer.status_code == 206:
            check_range(answer, start, offer)
        elif start:
            restart(file, progress)
        for piece in answer.iter_raw():
            file.write(piece)
            progress.update(len(piece))
    file.flush()
    if size_of(file) != offer.size:
        raise DownloadError(f"{path} has {size_of(file):,} bytes of {offer.size:,}. {DownloadError()}")


def check_range(answer: httpx.Response, start: int, offer: Offer) -> None:
    """Refuse a part that does not go on where the file ends."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("content-range", ""))
    if found is None or (int(found[1]), int(found[3])) != (start, offer.size):
        raise DownloadError(f"The service sent another part of {offer.name} than was asked for. {DownloadError()}")


def restart(file: IO[bytes], progress: tqdm) -> None:
    """Throw away what has arrived."""
    file.truncate(0)
    show(progress, 0)


def show(progress: tqdm, done: int) -> None:
    """Have a bar show what is there."""
    progress.n = done
    progress.refresh()


def size_of(file: IO[bytes]) -> int:
    """Return how many bytes have arrived."""
    file.flush()
    return os.fstat(file.fileno()).st_size
