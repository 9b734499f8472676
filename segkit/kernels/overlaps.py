"""Which labels of one label image lie on which of another, and by how many pixels: one pass, whatever the number of objects."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(nogil=True, cache=True)
def overlap_runs(truth: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """List the stretches of pixels along which both label images keep their label.

    Parameters
    ----------
    truth, labels : (pixels,) integers
        Two label images of one shape, flattened.

    Returns
    -------
    (runs,) int64, (runs,) int64, (runs,) int64
        Label in `truth`, label in `labels`, and length of each run; runs that are background in both are left out.
    """
    runs = 0
    for i in range(len(truth)):
        begins = i == 0 or truth[i] != truth[i - 1] or labels[i] != labels[i - 1]
        if begins and (truth[i] != 0 or labels[i] != 0):
            runs += 1
    true, found, lengths = np.empty(runs, np.int64), np.empty(runs, np.int64), np.empty(runs, np.int64)
    run, i = 0, 0
    while i < len(truth):
        one, other, start = truth[i], labels[i], i
        while i < len(truth) and truth[i] == one and labels[i] == other:
            i += 1
        if one != 0 or other != 0:
            true[run], found[run], lengths[run] = one, other, i - start
            run += 1
    return true, found, lengths


def warm() -> None:
    """Compile what this module holds, for the types of label images that the scores are computed from."""
    for one in (np.int32, np.uint16):
        for other in (np.int32, np.uint16):
            overlap_runs(np.zeros(2, one), np.zeros(2, other))
