"""A service beside the kit that it serves, for tests of a kit over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import segkit
from segkit.kit import Kit
from segkit.server.app import create_app
from segkit.settings import Settings
from tests.plates import QUICK
from tests.services import running

Make = Callable[..., Settings]
COUNTS = [1, 2, 3]


@dataclass
class Laboratory:
    """A service, its address, and the kit that it serves."""

    home: Kit
    url: str

    def work_off(self) -> None:
        """Do what `segkit worker` does beside the service."""
        self.home.work_off()


@contextmanager
def laboratory(settings: Settings) -> Iterator[Laboratory]:
    given = QUICK | {"upload_max_bytes": settings.upload_max_bytes}
    with segkit.open(settings.home, **given) as home, running(create_app(settings, home)) as url:
        yield Laboratory(home, url)
