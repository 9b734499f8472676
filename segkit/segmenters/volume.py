"""Nuclei in stacks of planes, taken as the volumes they are: planes may lie farther apart than pixels do.

Blobs are found where the Laplacian of a Gaussian of the nuclei's size is largest, the space between them is divided
along the valleys of that response, and each part is cut at a fixed share of its own brightness, so that dim nuclei
beside bright ones keep their size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label as label_equal
from skimage.segmentation import watershed

from segkit.errors import InvalidPixelsError, PixelSizeError, SelectionError
from segkit.segmenters.parameters import Parameters, SizedParameters, check_pixel_size
from segkit.segmenters.registry import Segmenter

Volume = NDArray[np.float32]

#: Segmenters whose parameters mean the same in a volume.
VOLUME_SEGMENTERS = ("nuclei",)

#: Scales at which the size of the nuclei is looked for, in pixels of a plane.
_SIGMAS = tuple(1.2 * 1.25**step for step in range(13))
#: A ball answers most strongly to the Laplacian of a Gaussian of its radius over the square root of three.
_DIAMETER_PER_SIGMA = 2 * 3**0.5
#: Nuclei are sought at a scale a little above theirs, at which their texture no longer shows.
_SEED_SCALE = 1.08
#: The size is estimated on a volume halved until it has no more voxels than this.
_ENOUGH_VOXELS = 8_000_000
#: Nuclei end where they are darker than this share of their own brightness above the background.
_EDGE = 0.6
#: What is fainter is background, as a share of the contrast between nuclei and background.
_FAINTEST = 0.3
#: The weakest blob that counts, as a share of that contrast.
_WEAKEST = 0.1
#: A blob must stand this many standard deviations of the noise above it.
_ABOVE_NOISE = 7.0
#: Smallest nucleus, as a share of the ball of the typical diameter.
_SMALLEST = 0.05


def segment_volume(
    volume: ArrayLike,
    parameters: Parameters | None = None,
    *,
    segmenter: Segmenter | None = None,
    pixel_size_um: float | None = None,
    z_step_um: float | None = None,
) -> NDArray[np.int32]:
    """Segment the nuclei of one volume.

    Parameters
    ----------
    volume : (planes, rows, columns) bool, integers or floats
        Bright nuclei on a darker background.
    parameters : Parameters, optional
        Those of `nuclei`; of these `diameter` and `diameter_um` are heeded. Without them the size is estimated.
    segmenter : Segmenter, optional
        The segmenter that was asked for: only `nuclei` takes volumes.
    pixel_size_um, z_step_um : float, optional
        Edge of a pixel and distance of two planes; planes are taken to lie one pixel apart when either is unknown.

    Returns
    -------
    (planes, rows, columns) int32
        0 on background, 1..n on nuclei, numbered in raster order of their first voxel.

    Raises
    ------
    SelectionError
        When the segmenter does not take volumes.
    InvalidPixelsError
        When the array is not a volume of finite real numbers.
    PixelSizeError
        When a size is not a positive number.

    Examples
    --------
    >>> z, y, x = np.indices((20, 40, 60))
    >>> near = lambda column: 4 * (z - 10) ** 2 + (y - 20) ** 2 + (x - column) ** 2 < 100
    >>> int(segment_volume(near(20) | near(41), pixel_size_um=0.5, z_step_um=1.0).max())
    2
    """
    if segmenter is not None and segmenter.name not in VOLUME_SEGMENTERS:
        raise SelectionError(
            f'Segmenter "{segmenter.name}" works on planes. Choose a plane (z=7) or a projection (z="max"), or the segmenter "nuclei".'
        )
    voxels = _checked(volume)
    step = _anisotropy(pixel_size_um, z_step_um)
    diameter = parameters.diameter_px(pixel_size_um) if isinstance(parameters, SizedParameters) else None
    if voxels.min() == voxels.max():
        return np.zeros(voxels.shape, dtype=np.int32)
    diameter = diameter or estimate_diameter(voxels, step)
    if diameter is None:
        return np.zeros(voxels.shape, dtype=np.int32)
    return _segment(voxels, diameter, step)


def estimate_diameter(volume: Volume, step: float) -> float | None:
    """Estimate the typical diameter of bright blobs, in pixels of a plane; None when there is no blob.

    `step` is the distance of two planes in pixels.
    """
    shrink = 1
    while volume.size > _ENOUGH_VOXELS and min(volume.shape[1:]) >= 64:
        volume, shrink, step = _halved(volume), shrink * 2, step / 2
    sigmas = [sigma for sigma in _SIGMAS if sigma * _DIAMETER_PER_SIGMA < max(volume.shape[1:]) / 2]
    if len(sigmas) < 3:
        return None
    answers = np.stack([_blobs(volume, sigma, step) for sigma in sigmas])
    peaks = (answers == ndimage.maximum_filter(answers, size=(3, 5, 5, 5))) & (answers > 0)
    peaks[0] = peaks[-1] = False
    scale, strength = np.nonzero(peaks)[0], answers[peaks]
    if not strength.size:
        return None
    strong = strength > 0.3 * np.mean(np.sort(strength)[-max(1, strength.size // 20) :])
    typical = np.average(np.log(np.asarray(sigmas)[scale[strong]]), weights=strength[strong])
    return float(np.exp(typical)) * _DIAMETER_PER_SIGMA * shrink


def _checked(volume: ArrayLike) -> Volume:
    array = np.asarray(volume)
    if array.ndim != 3:
        raise InvalidPixelsError(f"A volume has the axes (planes, rows, columns), and this array has the shape {array.shape}.")
    if array.size == 0 or array.dtype.kind not in "buif":
        raise InvalidPixelsError(f"A volume holds real numbers, and this one is {array.dtype} of the shape {array.shape}.")
    with np.errstate(over="ignore"):
        voxels = array.astype(np.float32)
    if not np.isfinite(voxels).all():
        raise InvalidPixelsError("The volume holds NaN or infinite voxels. Replace them first, for example with numpy.nan_to_num.")
    return voxels


def _anisotropy(pixel_size_um: float | None, z_step_um: float | None) -> float:
    """Return the distance of two planes in pixels."""
    sizes = [check_pixel_size(size) for size in (pixel_size_um, z_step_um) if size is not None]
    if len(sizes) < 2:
        return 1.0
    step = sizes[1] / sizes[0]
    if not 0.01 <= step <= 100:
        raise PixelSizeError(f"Planes {sizes[1]} µm apart and pixels of {sizes[0]} µm do not fit together: check both sizes.")
    return step


def _halved(volume: Volume) -> Volume:
    rows, columns = (size // 2 * 2 for size in volume.shape[1:])
    cut = volume[:, :rows, :columns]
    return (cut[:, ::2, ::2] + cut[:, 1::2, ::2] + cut[:, ::2, 1::2] + cut[:, 1::2, 1::2]) / np.float32(4)


def _smoothed(volume: Volume, sigma: float, step: float) -> Volume:
    return ndimage.gaussian_filter(volume, (sigma / step, sigma, sigma), mode="reflect", output=np.float32)


def _blobs(volume: Volume, sigma: float, step: float) -> Volume:
    """Answer of every voxel to a bright ball of that scale: minus the Laplacian of the smoothed volume, times sigma squared."""
    smoothed = _smoothed(volume, sigma, step)
    total = np.zeros_like(smoothed)
    for axis, distance in enumerate((step, 1.0, 1.0)):
        weights = np.array([-1, 2, -1], dtype=np.float32) * np.float32((sigma / distance) ** 2)
        total += ndimage.correlate1d(smoothed, weights, axis=axis, mode="reflect")
    return total


def _segment(volume: Volume, diameter: float, step: float) -> NDArray[np.int32]:
    sigma = _SEED_SCALE * diameter / _DIAMETER_PER_SIGMA
    answer = _blobs(volume, sigma, step)
    smoothed = _smoothed(volume, max(0.06 * diameter, 0.5), step)
    background = float(np.percentile(smoothed, 1))
    contrast = float(threshold_otsu(smoothed)) - background
    weakest = max(_WEAKEST * contrast, _ABOVE_NOISE * _noise(volume) * (0.0842 * step / sigma**3) ** 0.5)
    seeds = _seeds(answer, weakest, diameter, step)
    parts = watershed(-answer, seeds, mask=smoothed > background + _FAINTEST * contrast)
    parts = _cut_at_own_brightness(parts, smoothed, background)
    return _tidied(parts, _SMALLEST * np.pi / 6 * diameter**3 / step)


def _noise(volume: Volume) -> float:
    """Standard deviation of white noise in the volume, from what its second differences have in the middle of their distribution."""
    differences = volume[..., 2:] - 2 * volume[..., 1:-1] + volume[..., :-2]
    return float(np.median(np.abs(differences))) / (0.6745 * 6**0.5) if differences.size else 0.0


def _seeds(answer: Volume, weakest: float, diameter: float, step: float) -> NDArray[np.int32]:
    reach = 0.2 * diameter
    window = [2 * max(int(distance), 1) + 1 for distance in (reach / step, reach, reach)]
    peaks = (answer == ndimage.maximum_filter(answer, size=window)) & (answer > max(weakest, 1e-6))
    return label_equal(peaks, connectivity=3).astype(np.int32)


def _cut_at_own_brightness(parts: NDArray[np.int32], smoothed: Volume, background: float) -> NDArray[np.int32]:
    """Take off each part what is darker than a fixed share of its own brightness: the value that a tenth of it exceeds."""
    inside = np.flatnonzero(parts)
    if not inside.size:
        return parts
    owner, value = parts.reshape(-1)[inside], smoothed.reshape(-1)[inside]
    order = np.lexsort((value, owner))
    counts = np.bincount(owner)
    ranks = np.cumsum(counts) - counts + (0.9 * np.maximum(counts - 1, 0)).astype(int)
    bright = value[order][np.minimum(ranks, inside.size - 1)]
    limits = background + _EDGE * (bright - background)
    return np.where(smoothed > limits[parts], parts, 0).astype(np.int32)


def _tidied(parts: NDArray[np.int32], smallest: float) -> NDArray[np.int32]:
    """Keep the largest piece of each part with its holes filled, drop the small ones, and number in raster order."""
    pieces = label_equal(parts, connectivity=1)
    out = np.zeros(parts.shape, dtype=np.int32)
    for number, (place, piece) in enumerate(_largest_pieces(parts, pieces, smallest), start=1):
        filled = ndimage.binary_fill_holes(pieces[place] == piece)
        out[place][filled & (out[place] == 0)] = number
    return _in_raster_order(out)


def _largest_pieces(parts: NDArray[np.int32], pieces: NDArray[Any], smallest: float) -> Iterator[tuple[Any, int]]:
    sizes = np.bincount(pieces.reshape(-1))
    owner = np.zeros(len(sizes), dtype=np.int64)
    owner[pieces.reshape(-1)] = parts.reshape(-1)
    sizes[owner == 0] = 0
    by_size = np.argsort(-sizes, kind="stable")
    _, first = np.unique(owner[by_size], return_index=True)
    places = ndimage.find_objects(pieces)
    for piece in by_size[first]:
        if sizes[piece] >= max(smallest, 1):
            yield places[piece - 1], int(piece)


def _in_raster_order(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    values, first = np.unique(labels, return_index=True)
    values, first = values[values > 0], first[values > 0]
    numbers = np.zeros(int(labels.max(initial=0)) + 1, dtype=np.int32)
    numbers[values[np.argsort(first)]] = np.arange(1, len(values) + 1)
    return numbers[labels]
