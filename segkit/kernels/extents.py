"""From which row to which each label reaches, gathered over parts of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: First row of a label that has not been seen.
UNSEEN = np.iinfo(np.int32).max


class Extents:
    """First and last row of every label of an image that is looked at piece by piece."""

    def __init__(self) -> None:
        self.first = np.full(1, UNSEEN, dtype=np.int32)  #: by label; `UNSEEN` where there is none
        self.last = np.full(1, -1, dtype=np.int32)  #: by label; -1 where there is none

    def add(self, labels: NDArray[Any], row: int) -> None:
        """Look at a piece.

        Parameters
        ----------
        labels : (rows, columns) integers
            0 on background.
        row : int
            Where the piece's first row lies in the image.
        """
        labels = np.ascontiguousarray(labels, dtype=np.int32)
        more = int(labels.max(initial=0)) + 1 - len(self.first)
        if more > 0:
            more = max(more, len(self.first))
            self.first = np.concatenate([self.first, np.full(more, UNSEEN, dtype=np.int32)])
            self.last = np.concatenate([self.last, np.full(more, -1, dtype=np.int32)])
        _extend(labels, row, self.first, self.last)


@njit(nogil=True, cache=True)
def _extend(labels: NDArray[np.int32], row: int, first: NDArray[np.int32], last: NDArray[np.int32]) -> None:
    for r in range(labels.shape[0]):
        before = 0
        for label in labels[r]:
            if label != before and label != 0:
                first[label] = min(first[label], row + r)
                last[label] = max(last[label], row + r)
            before = label


def warm() -> None:
    """Compile what this module holds."""
    Extents().add(np.ones((1, 1), dtype=np.int32), 0)
