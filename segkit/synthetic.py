"""Synthetic fluorescence images with known truth, for the demonstration, tests and benchmarks. Always named as synthetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Field:
    """One synthetic field of view."""

    image: NDArray[np.uint16]  #: (rows, columns) camera counts
    truth: NDArray[np.int32]  #: (rows, columns) 0 on background, 1..n on nuclei


def nuclei_field(
    shape: tuple[int, int] = (512, 512), count: int = 120, *, diameter: float = 22, touching: float = 0.3, noise: float = 1.0, seed: int = 0
) -> Field:
    """Draw elliptical nuclei of uneven brightness on an uneven background, blurred and with shot noise.

    Parameters
    ----------
    shape : (rows, columns)
        Size of the field in pixels.
    count : int
        Nuclei to place; fewer are placed when the field is full.
    diameter : float
        Mean diameter in pixels; each nucleus differs from it by up to a third.
    touching : float
        Share of nuclei that are placed right beside another one.
    noise : float
        Strength of the noise: 1 is shot noise of the counts plus 30 counts of readout, 0 is none.
    seed : int
        The same seed gives the same field.

    Returns
    -------
    Field
        The image and its truth.

    Examples
    --------
    >>> field = nuclei_field((128, 128), 8, seed=1)
    >>> field.image.dtype, int(field.truth.max())
    (dtype('uint16'), 8)
    """
    random = np.random.default_rng(seed)
    truth = np.zeros(shape, dtype=np.int32)
    light: NDArray[Any] = np.zeros(shape, dtype=np.float32)
    spots: list[tuple[float, float, float]] = []
    for _ in range(20 * count):
        if len(spots) == count:
            break
        spot = _place(random, shape, spots, diameter, touching)
        if spot is not None:
            spots.append(spot)
            _draw(random, truth, light, spot, len(spots))
    light = np.asarray(cv2.GaussianBlur(light, (0, 0), max(0.6, diameter / 16)))
    light += _background(random, shape)
    if noise > 0:
        light = random.poisson(np.maximum(light, 0) / noise) * noise + random.normal(0, 30 * noise, shape)
    return Field(np.clip(light, 0, 65535).astype(np.uint16), truth)


def _place(
    random: np.random.Generator, shape: tuple[int, int], spots: list[tuple[float, float, float]], diameter: float, touching: float
) -> tuple[float, float, float] | None:
    """Choose a centre and radius that overlap no other nucleus, or None."""
    radius = diameter / 2 * random.uniform(0.72, 1.28)
    if spots and random.random() < touching:
        row, column, other = spots[random.integers(len(spots))]
        angle = random.uniform(0, 2 * np.pi)
        row, column = row + (radius + other) * 0.95 * np.sin(angle), column + (radius + other) * 0.95 * np.cos(angle)
    else:
        row, column = random.uniform(0, shape[0]), random.uniform(0, shape[1])
    if not (0 <= row < shape[0] and 0 <= column < shape[1]):
        return None
    near = np.array(spots).reshape(-1, 3)
    apart = np.hypot(near[:, 0] - row, near[:, 1] - column) >= 0.93 * (near[:, 2] + radius)
    return (row, column, radius) if apart.all() else None


def _draw(
    random: np.random.Generator, truth: NDArray[np.int32], light: NDArray[np.float32], spot: tuple[float, float, float], label: int
) -> None:
    """Draw one nucleus, with some texture inside, where no other one is."""
    row, column, radius = spot
    stretch = random.uniform(0.82, 1.0)
    reach = int(np.ceil(radius / stretch)) + 2
    rows = slice(max(0, int(row) - reach), min(truth.shape[0], int(row) + reach + 1))
    columns = slice(max(0, int(column) - reach), min(truth.shape[1], int(column) + reach + 1))
    y, x = np.mgrid[rows, columns].astype(np.float32)
    angle = random.uniform(0, np.pi)
    along = (x - column) * np.cos(angle) + (y - row) * np.sin(angle)
    across = (y - row) * np.cos(angle) - (x - column) * np.sin(angle)
    inside = ((along * stretch) ** 2 + (across / stretch) ** 2 <= (radius * stretch) ** 2) & (truth[rows, columns] == 0)
    texture = cv2.GaussianBlur(random.normal(0, 1, inside.shape).astype(np.float32), (0, 0), max(1.0, radius / 4))
    truth[rows, columns][inside] = label
    light[rows, columns][inside] = random.uniform(1500, 6000) * (1 + 0.3 * texture[inside])


def _background(random: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """A background that rises to one side, as uneven illumination does."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    angle = random.uniform(0, 2 * np.pi)
    slope = (y / shape[0] * np.sin(angle) + x / shape[1] * np.cos(angle)).astype(np.float32)
    return 400 + 250 * slope
