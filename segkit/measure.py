"""Label image → one row per object, in physical units. `docs/measurements.md` defines every column."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np
import pyarrow as pa
import scipy
from numpy.typing import ArrayLike, NDArray

from segkit.errors import InvalidPixelsError, PixelSizeError
from segkit.kernels import chords, hulls, measuring, outlines

#: Under this key a table's schema remembers the image it was measured in, as JSON.
METADATA_KEY = b"segkit.measure"

_AXES = ("plane", "row", "column")
_SPACE = ("z", "y", "x")
_STATISTICS = ("mean", "min", "max", "std", "sum")
_QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
_SUMMARISED = ("area", "volume", "equivalent_diameter", "circularity", "sphericity", "intensity_mean", "confidence")

Columns = dict[str, NDArray[Any]]


def measure(
    labels: ArrayLike,
    image: ArrayLike | None = None,
    *,
    channels: Sequence[str] | None = None,
    pixel_size_um: float | None = None,
    z_step_um: float | None = None,
) -> pa.Table:
    """Measure every object of a label image.

    Parameters
    ----------
    labels : (rows, columns) or (planes, rows, columns) integers
        0 on background. Labels need not be consecutive, nor objects in one piece.
    image : as `labels`, or with channels as one more axis at the end; bool, integers or floats, optional
        Where the intensities are measured. An object that holds a NaN has NaN intensities, as in scikit-image.
    channels : sequence of str, optional
        Names of the image's channels, for columns such as `intensity_mean_DAPI`. Unnamed channels are numbered from 0.
    pixel_size_um : float, optional
        Edge of a pixel in micrometres. Without it lengths and areas are in pixels, and their names end in `_px`.
    z_step_um : float, optional
        Distance of two planes in micrometres; of no effect on one plane.

    Returns
    -------
    pyarrow.Table
        One row per object, ascending by label. `docs/measurements.md` defines the columns.

    Raises
    ------
    InvalidPixelsError
        If labels are not integers from 0, or the shape of the image or the number of channel names does not fit.
    PixelSizeError
        If a size is not a positive number, or only one of the two sizes of a volume is given.

    Examples
    --------
    >>> labels = np.zeros((6, 8), dtype=np.int32)
    >>> labels[1:5, 2:6] = 3
    >>> table = measure(labels, labels * 10, pixel_size_um=0.5)
    >>> table.select(["label", "area_um2", "centroid_y_um", "intensity_mean"]).to_pylist()
    [{'label': 3, 'area_um2': 4.0, 'centroid_y_um': 1.25, 'intensity_mean': 30.0}]
    >>> measure(labels)["area_px"].to_pylist()
    [16]
    """
    labels = np.asarray(labels)
    return measure_region(
        labels,
        image,
        origin=(0,) * labels.ndim,
        image_shape=labels.shape,
        channels=channels,
        pixel_size_um=pixel_size_um,
        z_step_um=z_step_um,
    )


def measure_region(
    labels: ArrayLike,
    image: ArrayLike | None = None,
    *,
    origin: Sequence[int],
    image_shape: Sequence[int],
    channels: Sequence[str] | None = None,
    pixel_size_um: float | None = None,
    z_step_um: float | None = None,
) -> pa.Table:
    """Measure the objects of a region of a larger image, as if the whole image had been measured.

    The row of an object that lies in the region whole is, bit for bit, the row that `measure` gives for it in the whole image.

    Parameters
    ----------
    labels, image, channels, pixel_size_um, z_step_um
        The region's pixels, and as in `measure`.
    origin : (row, column) or (plane, row, column)
        Where the region's first pixel lies in the image.
    image_shape : (rows, columns) or (planes, rows, columns)
        Shape of the whole image.

    Returns
    -------
    pyarrow.Table
        As from `measure`. Centroids and boxes are those in the whole image, and `touches_edge` means its edge.

    Examples
    --------
    >>> labels = np.ones((2, 2), dtype=np.int32)
    >>> table = measure_region(labels, origin=(4, 7), image_shape=(10, 9))
    >>> table.select(["centroid_row", "box_column_max", "touches_edge"]).to_pylist()
    [{'centroid_row': 4.5, 'box_column_max': 9, 'touches_edge': True}]
    """
    labels = _check_labels(np.asarray(labels))
    frame = _Frame.checked(labels.shape, origin, image_shape, pixel_size_um, z_step_um)
    planes = {} if image is None else _name_channels(labels.shape, np.asarray(image), channels)
    volume = labels if labels.ndim == 3 else labels[None]
    objects = _find_objects(volume)
    columns = _measure_volumes(objects, frame) if labels.ndim == 3 else _measure_areas(objects, frame)
    columns |= _locate(objects, frame)
    for suffix, pixels in planes.items():
        values = measuring.sum_intensities(pixels if labels.ndim == 3 else pixels[None], objects.chords, objects.sizes)
        columns |= {f"intensity_{name}{suffix}": row for name, row in zip(_STATISTICS, values, strict=True)}
    return pa.table({"label": objects.chords.labels, **columns}, metadata={METADATA_KEY: frame.describe()})


def with_confidence(table: pa.Table, confidence: ArrayLike | None) -> pa.Table:
    """Add the column `confidence`, how sure the segmenter is of each object, from 0 to 1; unchanged where it does not say."""
    return table if confidence is None else table.append_column("confidence", pa.array(np.asarray(confidence, dtype=np.float64)))


def merge_tables(tables: Iterable[pa.Table]) -> pa.Table:
    """Put the tables of an image's regions together: one row per object, ascending by label.

    Parameters
    ----------
    tables : iterable of pyarrow.Table
        At least one; from `measure_region` with the same image shape, channels and sizes.

    Raises
    ------
    InvalidPixelsError
        If an object is in two of the tables: it was measured in pieces, or twice.

    Examples
    --------
    >>> one, two = (measure(np.full((1, 1), label)) for label in (4, 2))
    >>> merge_tables([one, two])["label"].to_pylist()
    [2, 4]
    """
    table = pa.concat_tables(tables).sort_by("label").combine_chunks()
    labels = table["label"].to_numpy()
    twice = labels[1:][labels[1:] == labels[:-1]]
    if len(twice):
        raise InvalidPixelsError(
            f"Object {twice[0]} was measured in two regions; measure each object once, in a region that holds it whole."
        )
    return table


def summarise(table: pa.Table) -> dict[str, Any]:
    """Summarise the objects of one image.

    Parameters
    ----------
    table : pyarrow.Table
        From `measure`, also after a round trip through Parquet.

    Returns
    -------
    dict
        Ready for JSON. `objects`: their number; `touching_edge`: the share of them that touch the edge;
        `density_per_mm2` (of a volume `density_per_mm3`): objects per area, None where the pixel size is not known;
        `coverage`: share of the image they cover; then for size, roundness and mean intensity, under the column's name,
        `mean`, `std`, `min`, `q05`, `q25`, `median`, `q75`, `q95` and `max` over the objects that have a finite value.
        What there is nothing to compute from is None.

    Examples
    --------
    >>> summary = summarise(measure(np.diag([1, 2, 3, 4]), pixel_size_um=10))
    >>> summary["objects"], summary["density_per_mm2"], summary["area_um2"]["median"]
    (4, 2500.0, 100.0)
    """
    image = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    summary = {"objects": table.num_rows, "touching_edge": _share(table["touches_edge"].to_numpy()), **_densities(table, image)}
    for name in table.column_names:
        if name.startswith(_SUMMARISED):
            summary[name] = _distribution(table[name].to_numpy().astype(np.float64))
    return summary


def summarised(columns: Iterable[str]) -> list[str]:
    """Return those columns of a table that `summarise` looks at, so that no more need be read.

    Examples
    --------
    >>> summarised(["label", "area_um2", "perimeter_um", "touches_edge"])
    ['area_um2', 'touches_edge']
    """
    return [name for name in columns if name.startswith(_SUMMARISED) or name in ("touches_edge", "centroid_plane")]


def _share(flags: NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if len(flags) else None


def _densities(table: pa.Table, image: dict[str, Any]) -> dict[str, float | None]:
    volume = "centroid_plane" in table.column_names
    density = coverage = None
    if pixels := math.prod(image.get("image_shape", [0])):
        known = image["pixel_size_um"] is not None
        whole = pixels * math.prod(image["spacing"])
        density = table.num_rows / whole * (1e9 if volume else 1e6) if known else None
        size = next(name for name in table.column_names if name.startswith(("area_", "volume_")))
        coverage = float(table[size].to_numpy().sum() / whole)
    return {"density_per_mm3" if volume else "density_per_mm2": density, "coverage": coverage}


def _distribution(values: NDArray[np.float64]) -> dict[str, float | None]:
    values = values[np.isfinite(values)]
    if not len(values):
        return dict.fromkeys(("mean", "std", "min", *_QUANTILES, "max"))
    quantiles = dict(zip(_QUANTILES, np.quantile(values, list(_QUANTILES.values())).tolist(), strict=True))
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        **quantiles,
        "max": float(values.max()),
    }


# What is measured in


@dataclass(frozen=True)
class _Frame:
    """Where the pixels lie and how large they are, as (plane, row, column)."""

    ndim: int
    origin: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    spacing: tuple[float, float, float]  #: micrometres, or 1 where they are not known
    known: bool  #: whether `spacing` is in micrometres

    @classmethod
    def checked(
        cls,
        shape: tuple[int, ...],
        origin: Sequence[int],
        image_shape: Sequence[int],
        pixel_size_um: float | None,
        z_step_um: float | None,
    ) -> _Frame:
        ndim = len(shape)
        fits = len(origin) == len(image_shape) == ndim
        if not fits or any(first < 0 or first + size > whole for first, size, whole in zip(origin, shape, image_shape, strict=True)):
            raise InvalidPixelsError(f"A region of shape {shape} at {tuple(origin)} is not inside an image of shape {tuple(image_shape)}.")
        pixel_size, z_step = _check_size("pixel_size_um", pixel_size_um), _check_size("z_step_um", z_step_um)
        if ndim == 3 and (pixel_size is None) != (z_step is None):
            raise PixelSizeError("A volume needs both pixel_size_um and z_step_um, or neither to be measured in voxels.")
        edge = pixel_size or 1.0
        spacing = ((z_step or 1.0) if ndim == 3 else 1.0, edge, edge)
        return cls(ndim, _in_space(origin, 0), _in_space(image_shape, 1), spacing, pixel_size is not None)

    @property
    def length(self) -> str:
        return "um" if self.known else "px"

    @property
    def axes(self) -> range:
        return range(3 - self.ndim, 3)

    def describe(self) -> str:
        facts = {
            "image_shape": self.image_shape[3 - self.ndim :],
            "pixel_size_um": self.spacing[1] if self.known else None,
            "spacing": self.spacing,
        }
        return json.dumps(facts)


def _in_space(numbers: Sequence[int], plane: int) -> tuple[int, int, int]:
    planes, rows, columns = (plane, *numbers)[-3:]
    return int(planes), int(rows), int(columns)


def _check_size(name: str, size: float | None) -> float | None:
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, Real) or not 0 < size < math.inf:
        raise PixelSizeError(f"{name} must be a positive number of micrometres, such as 0.325, not {size!r}.")
    return float(size)


def _check_labels(labels: NDArray[Any]) -> NDArray[np.integer[Any]]:
    if labels.ndim not in (2, 3):
        raise InvalidPixelsError(
            f"Labels must be (rows, columns) or (planes, rows, columns), not of shape {labels.shape}. Measure time points one by one."
        )
    if labels.dtype.kind not in "iu":
        raise InvalidPixelsError(
            f"Labels must be integers, 0 on background, not {labels.dtype}. "
            "Number the objects of a mask first, for example with skimage.measure.label; round labels read as floats with .astype(int)."
        )
    return labels


def _name_channels(shape: tuple[int, ...], image: NDArray[Any], names: Sequence[str] | None) -> dict[str, NDArray[Any]]:
    """Return the image's channels by the suffix of their columns."""
    if image.dtype.kind not in "biuf":
        raise InvalidPixelsError(f"The image must hold numbers, not {image.dtype}; measure the real and imaginary parts apart.")
    if image.shape == shape:
        image = image[..., None]
    if image.shape[:-1] != shape:
        hint = " Its channels must be the last axis: np.moveaxis(image, 0, -1)." if image.shape[1:] == shape else ""
        raise InvalidPixelsError(f"The image has shape {image.shape}, the labels {shape}; they must be of the same pixels.{hint}")
    count = image.shape[-1]
    if names is None:
        suffixes = [""] if count == 1 else [f"_{k}" for k in range(count)]
    else:
        suffixes = ["_" + re.sub(r"\W+", "_", name).strip("_") for name in names]
    if len(suffixes) != count:
        raise InvalidPixelsError(f"The image has {count} channels, but {len(suffixes)} channel names were given.")
    if len(set(suffixes)) != count:
        raise InvalidPixelsError(f"Channel names must differ in more than signs and spaces: {', '.join(map(repr, names or []))}.")
    return {suffix: image[..., k] for k, suffix in enumerate(suffixes)}


@dataclass(frozen=True)
class _Objects:
    """The objects of a label image, and what is counted of each in whole numbers."""

    chords: chords.Chords
    rows: int  #: height of a plane
    boxes: NDArray[np.int64]  #: (objects, 6)
    sizes: NDArray[np.int64]  #: (objects,) pixels
    moments: NDArray[np.int64]  #: (objects, 3) sums of plane, row, column from the box's corner
    covariances: NDArray[np.float64]  #: (objects, 6) as from `measuring.covariances`

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(objects, 3): the edges of the box."""
        return self.boxes[:, 3:] - self.boxes[:, :3]


def _find_objects(volume: NDArray[np.integer[Any]]) -> _Objects:
    rows = volume.shape[1]
    try:
        found = chords.find_chords(volume)
    except ValueError as error:
        raise InvalidPixelsError(f"Labels are counted from 1, and 0 is background: {error}.") from error
    boxes, sizes = measuring.find_boxes(found.places, found.owners, len(found.labels), rows)
    first, second = measuring.sum_moments(found.places, found.owners, rows, boxes)
    return _Objects(found, rows, boxes, sizes, first, measuring.covariances(sizes, first, second))


# Columns


def _locate(objects: _Objects, frame: _Frame) -> Columns:
    """Centroid, box and edge flag."""
    low, high = objects.boxes[:, :3] + frame.origin, objects.boxes[:, 3:] + frame.origin
    centroids = low + objects.moments / objects.sizes[:, None]
    columns: Columns = {f"centroid_{_AXES[axis]}": centroids[:, axis] for axis in frame.axes}
    if frame.known:
        columns |= {f"centroid_{_SPACE[axis]}_um": centroids[:, axis] * frame.spacing[axis] for axis in frame.axes}
    columns |= {f"box_{_AXES[axis]}_min": low[:, axis] for axis in frame.axes}
    columns |= {f"box_{_AXES[axis]}_max": high[:, axis] for axis in frame.axes}
    axes = list(frame.axes)
    columns["touches_edge"] = ((low == 0) | (high == frame.image_shape))[:, axes].any(axis=1)
    return columns


def _measure_areas(objects: _Objects, frame: _Frame) -> Columns:
    found, sizes, unit, edge = objects.chords, objects.sizes, frame.length, frame.spacing[1]
    crossings = outlines.count_crossings(found.places, found.order, found.offsets, objects.rows, objects.boxes, outlines.STEPS_2D)
    perimeters = math.pi / 4 * (crossings[:, 0] + crossings[:, 2] + (crossings[:, 1] + crossings[:, 3]) / math.sqrt(2))
    hull_areas, longest, narrowest = hulls.measure_hulls(found.places, found.order, found.offsets, objects.boxes)
    major, minor, eccentricities = _ellipses(objects.covariances)
    return {
        **({"area_um2": sizes * edge**2} if frame.known else {"area_px": sizes}),
        f"perimeter_{unit}": perimeters * edge,
        f"equivalent_diameter_{unit}": np.sqrt(4 / math.pi * sizes) * edge,
        f"feret_max_{unit}": longest * edge,
        f"feret_min_{unit}": narrowest * edge,
        f"axis_major_{unit}": major * edge,
        f"axis_minor_{unit}": minor * edge,
        "circularity": np.minimum(4 * math.pi * sizes / perimeters**2, 1),
        "solidity": sizes / hull_areas,
        "extent": sizes / objects.lengths.prod(axis=1),
        "eccentricity": eccentricities,
        "orientation": measuring.orientations(objects.covariances),
    }


def _ellipses(covariances: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Full axes in pixels, and eccentricity, of the ellipses with the same second moments."""
    rows, columns, both = covariances[:, 1], covariances[:, 2], covariances[:, 5]
    middle, half = (rows + columns) / 2, (rows - columns) / 2
    root = np.sqrt(half * half + both * both)
    largest = middle + root
    divisor = np.where(largest > 0, largest, 1)
    smallest = np.maximum(rows * columns - both * both, 0) / divisor
    return 4 * np.sqrt(largest), 4 * np.sqrt(smallest), np.sqrt(np.minimum(2 * root / divisor, 1))


def _measure_volumes(objects: _Objects, frame: _Frame) -> Columns:
    sizes, unit = objects.sizes, frame.length
    volumes = sizes.astype(np.float64) * math.prod(frame.spacing)
    surfaces = _surfaces(objects, frame.spacing)
    major, middle, minor = _ellipsoids(objects.covariances, frame.spacing)
    return {
        **({"volume_um3": volumes} if frame.known else {"volume_voxels": sizes}),
        "surface_um2" if frame.known else "surface_px": surfaces,
        f"equivalent_diameter_{unit}": measuring.cube_roots(6 / math.pi * volumes),
        f"axis_major_{unit}": major,
        f"axis_middle_{unit}": middle,
        f"axis_minor_{unit}": minor,
        "sphericity": np.minimum(measuring.cube_roots(36 * math.pi * volumes**2) / surfaces, 1),
        "extent": sizes / objects.lengths.prod(axis=1),
    }


def _ellipsoids(covariances: NDArray[np.float64], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """(3, objects): full axes, longest first, of the ellipsoids with the same moments of inertia."""
    z, y, x = spacing
    zz, yy, xx, zy, zx, yx = (covariances * (z * z, y * y, x * x, z * y, z * x, y * x)).T
    inertia = np.array([[yy + xx, -zy, -zx], [-zy, zz + xx, -yx], [-zx, -yx, zz + yy]]).transpose(2, 0, 1)
    smallest, middle, largest = np.maximum(np.linalg.eigvalsh(inertia), 0).T
    squares = np.stack([largest + middle - smallest, largest - middle + smallest, middle + smallest - largest])
    return np.sqrt(10 * np.maximum(squares, 0))


def _surfaces(objects: _Objects, spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    """(objects,): areas of the surfaces by Crofton's formula over the 13 directions to neighbouring voxels."""
    found = objects.chords
    crossings = outlines.count_crossings(found.places, found.order, found.offsets, objects.rows, objects.boxes, outlines.STEPS_3D)
    total = np.zeros(len(crossings))
    for count, weight in zip(crossings.T, _direction_weights(spacing), strict=True):
        total += count * weight
    return total


@lru_cache(maxsize=64)
def _direction_weights(spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    """(13,): surface for each time that a lattice line of a direction enters an object.

    Four times the share of all directions that are nearest to this one (a Voronoi cell of the sphere), times the area that
    one such line stands for: a voxel's volume over the distance of two voxels along the line.
    """
    steps = [(0, 0, 1), *((plane, row, column) for plane, row in outlines.STEPS_3D.tolist() for column in (-1, 0, 1))]
    vectors = np.array(steps) * spacing
    distances = np.linalg.norm(vectors, axis=1)
    directions = vectors / distances[:, None]
    cells = scipy.spatial.SphericalVoronoi(np.concatenate([directions, -directions])).calculate_areas()
    shares = 2 * cells[:13] / (4 * math.pi)
    return 4 * shares * math.prod(spacing) / distances
