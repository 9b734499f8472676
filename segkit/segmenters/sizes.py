"""How large the objects of an image are, from what openings with discs of rising size leave of its foreground."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segkit.kernels.sizes import DIAMETERS
from segkit.segmenters.threshold import otsu

#: Half of the foreground lies in objects that are wider than the estimate says.
HALF = 0.5
#: Objects are a little larger than the discs that fit into them.
FULLER = 1.15
#: Of foreground that is all one piece, a brighter part is looked at, as often as this.
DEEPER = 3


def estimate_diameter(counts: NDArray[np.int64], values: NDArray[np.float64], threshold: float) -> float | None:
    """Estimate the typical diameter of the objects above a threshold.

    Parameters
    ----------
    counts : (1 + openings, bins) int64
        As from `segkit.kernels.sizes.size_counts`.
    values : (bins,) float64
        What the bins stand for, rising.
    threshold : float

    Returns
    -------
    float or None
        In pixels; None when nothing lies above the threshold. Where most of the foreground is wider than the largest disc, as in dense
        tissue, the threshold is raised to the one that divides the foreground itself.
    """
    for _ in range(DEEPER):
        above = values > threshold
        left = counts[:, above].sum(axis=1)
        if not left[0]:
            return None
        shares = np.minimum.accumulate(left / left[0])
        if shares[-1] < HALF:
            return FULLER * _crossing(shares)
        threshold = otsu(counts[0, above], values[above])
    return None


def _crossing(shares: NDArray[np.float64]) -> float:
    """Return the disc that leaves half, between those that were tried."""
    sizes = np.log([DIAMETERS[0] / 2, *DIAMETERS])
    after = int(np.argmax(shares < HALF))
    part = (shares[after - 1] - HALF) / (shares[after - 1] - shares[after])
    return float(np.exp(sizes[after - 1] + part * (sizes[after] - sizes[after - 1])))
