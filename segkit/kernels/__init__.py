"""Compiled loops over pixels. They release the GIL, and are compiled once per machine, then read from a cache on disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from segkit.kernels.allocator import settle_allocator
from segkit.kernels.freshness import drop_stale_cache

__all__ = ["ready", "settle_allocator", "warm"]

log = logging.getLogger(__name__)

#: Loading all kernels from the cache takes less than this; longer means that they are being compiled.
QUIET_SECONDS = 5.0

drop_stale_cache(Path(__file__).parent)


def warm(report: Callable[[str], None] | None = None) -> None:
    """Compile every kernel, or load it from the cache, so that no image pays for it. `report` is told each module's name."""
    for module in iter_modules(__path__):
        compile_all = getattr(import_module(f"{__name__}.{module.name}"), "warm", None)
        if compile_all is not None:
            if report:
                report(module.name)
            compile_all()


@cache
def ready() -> None:
    """Make sure, once per process, that every kernel is compiled; say so when that takes long, so that nobody waits in silence."""
    words = "Compiling segkit's kernels, once on this machine. It takes about a minute."
    announcement = threading.Timer(QUIET_SECONDS, log.warning, [words])
    announcement.daemon = True
    announcement.start()
    try:
        warm()
    finally:
        announcement.cancel()
