"""Train the forest that the segmenter `nuclei` carries, on the part "tune" of the fluorescence images of a folder.

    python -m benchmarks.train_nuclei ../shared/data/dsb2018 segkit/segmenters/nuclei.npz

Every image is shown as it is and in variants: at another size, with some nuclei dimmed, on a sloping background, with more noise. The
same folder gives the same forest. `python -m benchmarks.accuracy` judges it on the other part.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import Pair, as_gray, read_pairs
from benchmarks.boosting import boost
from benchmarks.train_tissue import classes_of
from segkit.segmenters.forest import CLASSES, Forest, plant
from segkit.segmenters.nuclei import NucleiParameters
from segkit.segmenters.nuclei_forest import RECIPE, Lens, lens_on, looked_at, planes_of

SIGMAS = (0.7, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 16.0)
#: Variants of each image beside itself, and how many pixels are drawn of the image and of each variant.
VARIANTS, PIXELS, PIXELS_OF_VARIANT = 2, 4000, 1000
ROUNDS, DEPTH, RATE = 200, 6, 0.15


def examples(pairs: Iterable[Pair], forest: Forest) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Draw pixels of every image and its variants that the segmenter would look at: their features and their classes."""
    draw, shown, meant = np.random.default_rng(0), [], []
    for pair in pairs:
        image, truth = pair.read()
        image = as_gray(image, pair.kind)
        views = [(image, truth, PIXELS), *((*varied(image, truth, draw), PIXELS_OF_VARIANT) for _ in range(VARIANTS))]
        for pixels, labels, count in views:
            drawn = draw_pixels(pixels, labels, count, forest, draw)
            if drawn is not None:
                shown.append(drawn[0])
                meant.append(drawn[1])
    return np.concatenate(shown), np.concatenate(meant)


def draw_pixels(
    pixels: NDArray[Any], truth: NDArray[np.int32], count: int, forest: Forest, draw: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int8]] | None:
    """Draw pixels of one image, in the size in which the segmenter looks at it."""
    plan = RECIPE.plan(pixels, NucleiParameters())
    if not np.isfinite(plan.rise):
        return None
    lens = lens_on(pixels.shape, plan, 0, 0)
    planes, places = planes_of(pixels, plan, lens), np.flatnonzero(looked_at(pixels, plan, lens))
    mask = np.zeros(planes.shape[1:], dtype=bool)
    mask.reshape(-1)[draw.choice(places, min(count, len(places)), replace=False)] = True
    return forest.features(planes, mask), classes_of(truth[np.ix_(*(_middles(lens, axis, mask.shape[axis]) for axis in (0, 1)))])[mask]


def _middles(lens: Lens, axis: int, count: int) -> NDArray[np.int64]:
    """Return the pixel of the image in the middle of each pixel that the forest is shown, along one axis."""
    return np.minimum((np.arange(count) * lens.step + lens.step // 2) // lens.finer, lens.shape[axis] - 1)


def varied(image: NDArray[np.uint8], truth: NDArray[np.int32], draw: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return an image as it might have come from another microscope: of another size, dimmer in places, uneven, noisy."""
    factor = 2 ** draw.uniform(-0.7, 0.7)
    size = (max(int(image.shape[1] * factor), 32), max(int(image.shape[0] * factor), 32))
    pixels = cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    labels = cv2.resize(truth.astype(np.float32), size, interpolation=cv2.INTER_NEAREST).astype(np.int32)
    dark = float(np.percentile(pixels, 5))
    bright = float(np.mean(pixels[labels > 0])) - dark if labels.any() else 10.0
    heights = pixels - dark
    dimmed = np.where(draw.random(int(labels.max()) + 1) < 0.4, draw.uniform(0.12, 1, int(labels.max()) + 1), 1).astype(np.float32)
    dimmed[0] = 1
    heights = heights * cv2.GaussianBlur(dimmed[labels], (0, 0), 0.7)
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    angle = draw.uniform(0, 2 * np.pi)
    slope = (y / size[1] - 0.5) * np.sin(angle) + (x / size[0] - 0.5) * np.cos(angle)
    heights = heights + draw.uniform(0, 0.4) * bright * slope + draw.normal(0, draw.uniform(0, 0.04) * bright, heights.shape)
    return (heights + dark + bright).astype(np.float32), labels


def train(pairs: list[Pair]) -> Forest:
    """Train on the images of `pairs`."""
    empty = {"feature": [-1], "threshold": [0], "left": [0], "roots": [0], "votes": [[0, 0, 0]], "base": [0, 0, 0]}
    asked: dict[str, Any] = {"sigmas": SIGMAS, "structure": False, "planes": 1, "link": "softmax"}
    blank: dict[str, Any] = {key: np.array(value) for key, value in empty.items()}
    shown, meant = examples(pairs, Forest(**blank, **asked, notes={}))
    trees, base = boost(shown, meant, classes=len(CLASSES), rounds=ROUNDS, depth=DEPTH, rate=RATE, share=0.3)
    notes = {
        "trained_on": f"{len(pairs)} fluorescence images of BBBC038 (CC0), the part 'tune' of benchmarks.accuracy",
        "pixels": len(shown),
    }
    grown: dict[str, Any] = plant(trees)
    return Forest(**grown, base=base, **asked, notes=notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("target")
    given = parser.parse_args()
    pairs = [pair for pair in read_pairs(given.folder) if pair.kind == "fluo" and pair.part == "tune"]
    forest = train(pairs)
    forest.save(given.target)
    print(f"{given.target}: {len(forest.roots)} trees, {len(forest.feature)} nodes, from {len(pairs)} images; hash {forest.content_hash}")


if __name__ == "__main__":
    main()
