"""How a crop is varied for training: as another microscope, exposure, dye or slide might have given it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.segmenters.recipe import LabelArray

FloatArray = NDArray[np.float32]
#: Share of crops that are shown without their second stain, as slides of known stains and gray images are.
ONE_STAIN = 0.2


def varied(relative: FloatArray, labels: LabelArray, draw: np.random.Generator) -> FloatArray:
    """Return brightness as another microscope, exposure or dye might have given it."""
    out = relative
    if labels.any() and draw.random() < 0.3:
        out = out * _dimmed(labels, draw)
    if draw.random() < 0.3:
        out = np.sign(out) * np.abs(out) ** np.float32(np.exp(draw.uniform(-0.3, 0.3)))
    if draw.random() < 0.25:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), draw.uniform(0.3, 1.6)), dtype=np.float32)
    if draw.random() < 0.2:
        out = out + _slope(out.shape, draw)
    if draw.random() < 0.4:
        noise = draw.standard_normal(out.shape, dtype=np.float32)
        out = out + np.float32(draw.uniform(0, 0.08)) * noise * np.sqrt(np.maximum(out, 0) + np.float32(0.1))
    return np.asarray(out * np.float32(np.exp(draw.normal(0, 0.3))), dtype=np.float32)


def _dimmed(labels: LabelArray, draw: np.random.Generator) -> FloatArray:
    count = int(labels.max()) + 1
    gains = np.where(draw.random(count) < 0.4, draw.uniform(0.12, 1, count), 1).astype(np.float32)
    gains[0] = 1
    return np.asarray(cv2.GaussianBlur(gains[labels], (0, 0), 0.7))


def _slope(shape: tuple[int, ...], draw: np.random.Generator) -> FloatArray:
    angle = draw.uniform(0, 2 * np.pi)
    y, x = (np.linspace(-0.5, 0.5, size, dtype=np.float32) for size in shape)
    slope = y[:, None] * np.float32(np.sin(angle)) + x[None] * np.float32(np.cos(angle))
    return np.asarray((slope + np.float32(0.7)) * np.float32(draw.uniform(0, 0.3)), dtype=np.float32)


def varied_slide(planes: FloatArray, labels: LabelArray, draw: np.random.Generator) -> FloatArray:
    """Return what is known of a slide as other amounts of other dyes, or another microscope, might have given it.

    Parameters
    ----------
    planes : (3, rows, columns) float32
        Brightness with nuclei bright, and the densities of the two stains; 0 on the background.
    labels : (rows, columns) int32
        0 on background.
    draw : numpy.random.Generator

    Returns
    -------
    (3, rows, columns) float32
    """
    out = planes.copy()
    if labels.any() and draw.random() < 0.3:
        out[:2] *= np.maximum(_dimmed(labels, draw), np.float32(0.4))
    if draw.random() < 0.4:
        out[:2] = np.sign(out[:2]) * np.abs(out[:2]) ** np.float32(np.exp(draw.uniform(-0.3, 0.3)))
    if draw.random() < 0.25:
        sigma = draw.uniform(0.3, 1.6)
        out = np.stack([np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma)) for plane in out])
    if draw.random() < 0.2:
        out[:2] += _slope(labels.shape, draw)
    out[1:] = _mixed(out[1:], draw)
    out *= np.exp(draw.normal(0, 0.25, (3, 1, 1))).astype(np.float32)
    out += draw.normal(0, 0.04, (3, 1, 1)).astype(np.float32)
    if draw.random() < 0.4:
        out += np.float32(draw.uniform(0, 0.08)) * draw.standard_normal(out.shape, dtype=np.float32)
    if draw.random() < ONE_STAIN:
        out[2] = 0
    return np.asarray(out, dtype=np.float32)


def _mixed(stains: FloatArray, draw: np.random.Generator) -> FloatArray:
    """Turn the directions of the stains a little towards each other."""
    shares = draw.normal(0, (0.25, 0.08)).astype(np.float32)
    return np.stack([stains[0] + shares[0] * stains[1], stains[1] + shares[1] * stains[0]])
