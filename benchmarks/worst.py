"""A picture of images beside what was made of them: the truth's outlines and ours in different colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

#: Blue-green-red, as OpenCV writes it: truth in green, ours in magenta, both in white.
TRUTH, OURS, BOTH = (80, 220, 0), (255, 60, 255), (255, 255, 255)
EDGE, TITLE, ACROSS = 420, 22, 2

Panel = tuple[str, NDArray[Any], NDArray[np.int32], NDArray[np.int32]]


def draw_worst(panels: Sequence[Panel], target: Path) -> None:
    """Write a PNG of `panels`: title, image, true labels, our labels; each is drawn without and with its outlines."""
    drawn = [_panel(*panel) for panel in panels]
    blank = np.zeros_like(drawn[0])
    rows = [np.hstack([*drawn[i : i + ACROSS], *[blank] * (ACROSS - len(drawn[i : i + ACROSS]))]) for i in range(0, len(drawn), ACROSS)]
    sheet = np.vstack([_words("green: truth   magenta: ours   white: both", rows[0].shape[1]), *rows])
    cv2.imwrite(str(target), sheet)


def faults(truth: NDArray[np.int32], ours: NDArray[np.int32]) -> str:
    """Say in words what is wrong with labels: what was missed, made up, merged, cut in pieces, or badly outlined."""
    both, counts = np.unique(np.stack([truth.reshape(-1), ours.reshape(-1)]), axis=1, return_counts=True)
    shared = np.zeros((int(truth.max()) + 1, int(ours.max()) + 1))
    shared[both[0], both[1]] = counts
    true_areas, our_areas = shared.sum(axis=1)[1:], shared.sum(axis=0)[1:]
    shared = shared[1:, 1:]
    true_areas, our_areas = np.maximum(true_areas, 1), np.maximum(our_areas, 1)
    matched = shared / (true_areas[:, None] + our_areas[None] - shared) > 0.5
    holds = shared > 0.5 * true_areas[:, None]
    within = shared > 0.5 * our_areas[None]
    merged, cut = holds.sum(axis=0) > 1, within.sum(axis=1) > 1
    missed = shared.sum(axis=1) < 0.1 * true_areas
    made_up = shared.sum(axis=0) < 0.1 * our_areas
    told = ~missed & ~matched.any(axis=1) & ~cut & ~holds[:, merged].any(axis=1)
    said = {"missed": missed, "made up": made_up, "merged": merged, "cut": cut, "badly outlined": told}
    return ", ".join(f"{int(where.sum())} {name}" for name, where in said.items() if where.any()) or "nothing"


def _panel(title: str, image: NDArray[Any], truth: NDArray[np.int32], ours: NDArray[np.int32]) -> NDArray[np.uint8]:
    scale = EDGE / max(truth.shape)
    size = (round(truth.shape[1] * scale), round(truth.shape[0] * scale))
    picture = cv2.resize(_as_bgr(image), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    lines = [find_boundaries(cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)) for labels in (truth, ours)]
    outlined = picture.copy()
    outlined[lines[0]], outlined[lines[1]], outlined[lines[0] & lines[1]] = TRUTH, OURS, BOTH
    out = np.zeros((TITLE + EDGE, 2 * EDGE + 8, 3), dtype=np.uint8)
    out[:TITLE] = _words(title, out.shape[1])
    out[TITLE : TITLE + size[1], : size[0]] = picture
    out[TITLE : TITLE + size[1], EDGE : EDGE + size[0]] = outlined
    return out


def _as_bgr(image: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = np.percentile(image, (0.5, 99.8)) if image.ndim == 2 else (0, 255)
    shown = np.clip((image.astype(np.float32) - low) * (255 / max(high - low, 1)), 0, 255).astype(np.uint8)
    return cv2.cvtColor(shown, cv2.COLOR_GRAY2BGR if shown.ndim == 2 else cv2.COLOR_RGB2BGR)


def _words(said: str, width: int) -> NDArray[np.uint8]:
    line = np.zeros((TITLE, width, 3), dtype=np.uint8)
    cv2.putText(line, said, (4, TITLE - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return line
