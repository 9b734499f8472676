"""Label images to measure: blobs, shapes in a plane, and speckles."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from scipy import ndimage

INTENSITIES = ["mean", "min", "max", "std"]


def blobs(seed: int, shape: tuple[int, ...], objects: int = 6) -> np.ndarray:
    """Touching, ragged objects, some in several pieces, with a background between some of them."""
    noise = np.random.default_rng(seed).random((objects + 1, *shape))
    return np.argmax([ndimage.gaussian_filter(layer, 1.5) for layer in noise], axis=0)


def plane(rows: int, columns: int, *pieces: Any) -> np.ndarray:
    labels = np.zeros((rows, columns), dtype=np.int32)
    for label, piece in enumerate(pieces, start=1):
        labels[piece] = label
    return labels


@st.composite
def speckles(draw: st.DrawFn, ndim: int, longest: int, labels: int) -> np.ndarray:
    """Labels drawn pixel by pixel: many objects of many pieces and holes, in a small image."""
    shape = draw(st.tuples(*[st.integers(1, longest)] * ndim))
    random = np.random.default_rng(draw(st.integers(0, 10**9)))
    return random.integers(1, labels + 1, shape) * (random.random(shape) < draw(st.floats(0.02, 1)))
