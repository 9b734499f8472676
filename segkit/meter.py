"""What a worker measures of its own work, for the history: images and seconds by segmenter, Dask's memory and threads, room on the disk."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: Names of what is counted by segmenter, in a sample.
IMAGES, SECONDS = "images.{}_total", "seconds.{}_total"


@dataclass(frozen=True)
class Process:
    """A Dask worker process."""

    threads: int
    busy: int  #: tasks that it runs now
    memory: int  #: bytes in use
    limit: int  #: bytes that it may use; 0: as many as there are


class Meter:
    """Counts from the thread that works, and is read from the one that samples."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._images: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, segmenter: str, seconds: float) -> None:
        """Count an image that was segmented."""
        with self._lock:
            self._images[segmenter] += 1
            self._seconds[segmenter] += seconds  # type: ignore[assignment]

    def minute(self, processes: Sequence[Process]) -> dict[str, float]:
        """Return what was counted since the last call, and what there is now."""
        with self._lock:
            images, self._images = self._images, Counter()
            seconds, self._seconds = self._seconds, Counter()
        measured: dict[str, float] = {IMAGES.format(name): number for name, number in images.items()}
        measured |= {SECONDS.format(name): number for name, number in seconds.items()}
        return measured | load_of(processes) | room(self._home)


def load_of(processes: Sequence[Process]) -> dict[str, float]:
    """Add up what Dask's workers use, of what they may; of memory, that of the fullest one."""
    if not processes:
        return {}
    fullest = max(processes, key=lambda each: each.memory / each.limit if each.limit else 0.0)
    return {
        "dask_workers": len(processes),
        "dask_threads": sum(each.threads for each in processes),
        "dask_busy": sum(min(each.busy, each.threads) for each in processes),
        "peak_memory_bytes": fullest.memory,
        "memory_limit_bytes": fullest.limit,
    }


def room(home: str) -> dict[str, float]:
    """Return the room on the disk of the results; nothing of a store."""
    if "://" in home:
        return {}
    place = Path(home).expanduser()
    try:
        use = shutil.disk_usage(place if os.path.isdir(place) else place.parent)
    except OSError:
        return {}
    return {"disk_free_bytes": use.free, "disk_bytes": use.total}
