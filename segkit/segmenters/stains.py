"""Which stain is where: the light a pixel absorbs, divided among the stains of the slide (Ruifrok and Johnston's deconvolution).

The background's colour and the stains' own directions are read from the counted colours of the whole image, so that every
tile is looked at through the same tables.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segkit.kernels.stains import STEPS

#: Absorption of red, green and blue by stains whose direction is known, after Ruifrok and Johnston (2001).
KNOWN_STAINS = {
    "hematoxylin-eosin": ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)),
    "hematoxylin-dab": ((0.65, 0.70, 0.29), (0.27, 0.57, 0.78)),
    "giemsa": ((0.83, 0.51, 0.22), (0.09, 0.95, 0.28)),
}

#: The density of the darkest stained pixels becomes this.
FULL = 100.0
#: Below this absorption a pixel counts as unstained, and an image that has no more of it is taken for empty.
FAINT, FAINTEST_SLIDE = 0.3, 0.15


def read_tables(counts: NDArray[np.int64], stain: str = "auto", background: str = "auto") -> NDArray[np.float32]:
    """Read background and stains from the counted colours of an image, and write them as tables.

    Parameters
    ----------
    counts : (COLOUR_BINS,) int64
        As from `segkit.kernels.stains.colour_counts`.
    stain : "auto" or one of `KNOWN_STAINS`
        "auto": the first plane is the direction in which most of the absorption lies, the second the one across it; where
        much is brown and something is blue, hematoxylin and DAB. A known pair: the first plane is the nuclear stain, the
        second is empty.
    background : "auto", "bright" or "dark"

    Returns
    -------
    (2, 3, 256) float32
        The tables of `segkit.kernels.stains.stain_planes` for two planes; in the first, 0 is background and 100 the darkest
        stain of the image.
    """
    fine = counts[STEPS**3 :].reshape(3, 256)
    inverted = is_dark(counts, background)
    colours = counts[: STEPS**3]
    if inverted:
        fine, colours = fine[:, ::-1], colours[::-1]
    clear = np.array([_quantile(channel, 0.95) for channel in fine])
    absorbed = _absorption(np.arange(256.0)[None, :], clear[:, None])
    used = np.flatnonzero(colours)
    weights = colours[used].astype(np.float64)
    cells = _absorption(_cell_colours(used), clear[None, :])
    if stain == "auto" and _is_brown_and_blue(cells, weights):
        stain = "hematoxylin-dab"
    directions = _main_directions(cells, weights) if stain == "auto" else _known_directions(stain)
    densities = cells @ directions[0]
    full = max(_weighted_quantile(densities, weights, 0.99), FAINTEST_SLIDE)
    tables = directions[:, :, None] * absorbed[None] * (FULL / full)
    return np.ascontiguousarray(tables[:, :, ::-1] if inverted else tables, dtype=np.float32)


def _absorption(value: NDArray[np.float64], clear: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(-np.log((value + 1.0) / (clear + 1.0)))


def _cell_colours(cells: NDArray[np.intp]) -> NDArray[np.float64]:
    steps = np.stack([cells // STEPS**2, cells // STEPS % STEPS, cells % STEPS], axis=1)
    return np.asarray((steps + 0.5) * (256 / STEPS) - 0.5, dtype=np.float64)


def _quantile(counts: NDArray[np.int64], share: float) -> float:
    total = np.cumsum(counts)
    return float(np.searchsorted(total, share * total[-1]))


def _weighted_quantile(values: NDArray[np.float64], weights: NDArray[np.float64], share: float) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, share * total[-1])])


def is_dark(counts: NDArray[np.int64], background: str = "auto") -> bool:
    """Tell whether an image is bright objects on a dark background: told so, or mostly dark, and reaching much farther up than down."""
    if background != "auto":
        return background == "dark"
    fine = counts[STEPS**3 :].reshape(3, 256)
    low, middle, high = (np.mean([_quantile(channel, share) for channel in fine]) for share in (0.005, 0.5, 0.995))
    return bool(middle < 85 and high - middle > 2 * (middle - low))


def _is_brown_and_blue(cells: NDArray[np.float64], weights: NDArray[np.float64]) -> bool:
    """Tell whether the slide shows brown DAB on blue nuclei: then most of the absorption is not that of the nuclei."""
    stained = cells.sum(axis=1) > FAINT
    cells, weights = cells[stained], weights[stained]
    redness = (cells[:, 0] - cells[:, 2]) / cells.sum(axis=1)
    brown, blue = weights[redness < -0.12].sum(), weights[redness > 0.05].sum()
    return bool(brown > 0.3 * weights.sum() and blue > 0.02 * weights.sum())


def _main_directions(cells: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    stained = cells.sum(axis=1) > FAINT
    if weights[stained].sum() > 100:
        cells, weights = cells[stained], weights[stained]
    _, vectors = np.linalg.eigh((cells * weights[:, None]).T @ cells)
    first, second = vectors[:, 2], vectors[:, 1]
    return np.stack([first * np.sign(first.sum() or 1), second * np.sign(second[0] or 1)])


def _known_directions(stain: str) -> NDArray[np.float64]:
    nuclear, other = (np.array(vector) / np.linalg.norm(vector) for vector in KNOWN_STAINS[stain])
    rest = np.cross(nuclear, other)
    unmixing = np.linalg.inv(np.stack([nuclear, other, rest / np.linalg.norm(rest)]))
    return np.stack([unmixing[:, 0], np.zeros(3)])
