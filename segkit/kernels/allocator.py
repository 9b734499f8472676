"""What a worker sets once so that its threads do not get in each other's way."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

#: The most that glibc accepts for the first; the second holds that many bytes back from the system per arena.
MMAP_THRESHOLD, TRIM_THRESHOLD = 32 * 2**20, 512 * 2**20


def settle_allocator() -> bool:
    """Keep freed arrays for the next image instead of giving their memory back, and hold OpenCV to one thread.

    By default glibc maps every large array, faults it in page by page under a lock of the whole process, and unmaps it
    again: four threads then wait for each other. And each thread gets an arena of its own, which is made of pieces of 64 MiB
    that are mapped and unmapped whatever the thresholds: with one arena for all, four threads did 4 % more. Call it before
    there are threads; calling it twice does no harm.

    Returns
    -------
    bool
        Whether the C library took the settings; on others than glibc nothing is changed.
    """
    opencv = sys.modules.get("cv2")
    if opencv is not None:
        opencv.setNumThreads(1)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = {_M_MMAP_THRESHOLD: MMAP_THRESHOLD, _M_TRIM_THRESHOLD: TRIM_THRESHOLD, _M_ARENA_MAX: 1}
    return all(mallopt(number, value) for number, value in settings.items())
