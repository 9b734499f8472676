"""The folders and URLs from which images may be registered on behalf of somebody who is not at this machine.

A path is taken as what it leads to, links followed, so neither `..` nor a link leads out. A URL must lie below an allowed one, and
be a plain one: chained URLs (`zip://...::...`) name a second place.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from segkit.errors import FolderNotAllowedError
from segkit.images import discover
from segkit.images.storage import is_url, normalise

WILDCARDS = "*?["


class Folders:
    """Allowed folders and URLs.

    Examples
    --------
    >>> Folders(["s3://lab/plates"]).contains("s3://lab/plates/7/a.tif")
    True
    >>> Folders(["s3://lab/plates"]).contains("s3://lab/plates/../secrets/a.tif")
    False
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = tuple(resolved(normalise(each)) for each in allowed)

    def contains(self, uri: str) -> bool:
        """Whether a path or URL lies in one of the folders, or is one."""
        if "\0" in uri:
            return False
        place = resolved(normalise(uri))
        if is_url(place) and ("::" in place or ".." in place.split("/")):
            return False
        return any(place == folder or place.startswith(folder.rstrip("/") + "/") for folder in self._allowed)

    def check(self, where: str) -> None:
        """Refuse a path, URL or pattern that begins outside.

        Raises
        ------
        FolderNotAllowedError
            It does.
        """
        fixed = normalise(where) if "\0" not in where else where
        first = min((fixed.find(sign) for sign in WILDCARDS if sign in fixed), default=-1)
        if not self.contains(fixed if first < 0 else fixed[:first].rpartition("/")[0] or "/"):
            raise FolderNotAllowedError

    def discover(self, where: Iterable[str]) -> Iterator[str]:
        """Find candidate images as `images.discover` does, all inside.

        Raises
        ------
        FolderNotAllowedError
            A place begins outside, or a link in a folder leads out of it.
        """
        for place in where:
            self.check(place)
            for uri in discover(place):
                if not self.contains(uri):
                    raise FolderNotAllowedError(f"{uri} leads out of the allowed folders. {FolderNotAllowedError()}")
                yield uri


def resolved(place: str) -> str:
    """Follow the links of a local path; a URL is returned as it is."""
    return place if is_url(place) else os.path.realpath(place)
