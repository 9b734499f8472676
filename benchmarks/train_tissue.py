"""Train the forests that the segmenter `tissue` carries, on the part "tune" of the stained images of a folder.

    python -m benchmarks.train_tissue ../shared/data/dsb2018 segkit/segmenters

The first forest is shown the stains. The second is also shown what the first thinks of a pixel's neighbourhood: for that,
each image is judged by a forest that was trained on the other half of the images, as it will be in earnest. The same folder
gives the same forests. `python -m benchmarks.accuracy` judges it on the other part.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from benchmarks.accuracy import Pair, as_colour, read_pairs
from segkit.kernels.stains import colour_counts, stain_planes
from segkit.segmenters.forest import BORDER, OBJECT, Forest, plant
from segkit.segmenters.stains import read_tables
from segkit.segmenters.tissue_forest import FOREST_FILES, stained, with_context

#: Kinds of images that are dark nuclei on a bright background.
KINDS = ("color", "bright-gray")
#: Scales that the first forest looks at, and those of the second.
SIGMAS, CONTEXT_SIGMAS = (0.7, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0), (1.0, 2.0, 4.0, 8.0)
#: Rounds of boosting, how deep each tree is, and how much of its correction is taken.
ROUNDS, DEPTH, LEAVES, RATE = 40, 6, 48, 0.15
PIXELS_PER_IMAGE = 6000
#: Share of the pixels that are shown a second time without the second plane, as on a slide of known stains.
ONE_STAIN = 0.25


@dataclass(frozen=True)
class Slide:
    """One image as the forests see it."""

    planes: NDArray[np.float32]
    looked_at: NDArray[np.bool_]
    classes: NDArray[np.int8]

    def without_second_stain(self) -> Slide:
        """The same slide, seen through one stain."""
        planes = self.planes.copy()
        planes[1] = 0
        return replace(self, planes=planes)


def read_slide(pair: Pair) -> Slide:
    """Read an image and its truth."""
    image, truth = pair.read()
    image = as_colour(image)
    planes = stain_planes(image, read_tables(colour_counts(image)[0]))
    return Slide(planes, stained(planes), classes_of(truth))


def classes_of(truth: NDArray[np.int32]) -> NDArray[np.int8]:
    """Return what each pixel is: background, object, or the border of an object, one pixel wide."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    highest = cv2.dilate(truth.astype(np.uint16), cross)
    lowest = cv2.erode(np.pad(truth, 1, mode="edge").astype(np.uint16), cross)[1:-1, 1:-1]
    inside = truth > 0
    out = np.where(inside, OBJECT, 0)
    out[inside & ((highest != truth) | (lowest != truth))] = BORDER
    return out.astype(np.int8)


def examples(slides: Iterable[Slide], forest: Forest, share: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Draw pixels of every slide that the segmenter would look at: their features and their classes."""
    draw, shown, meant = np.random.default_rng(0), [], []
    for slide in slides:
        places = np.flatnonzero(slide.looked_at)
        mask = np.zeros(slide.looked_at.shape, dtype=bool)
        mask.reshape(-1)[draw.choice(places, min(int(share * PIXELS_PER_IMAGE), len(places)), replace=False)] = True
        shown.append(forest.features(slide.planes, mask))
        meant.append(slide.classes[mask])
    return np.concatenate(shown), np.concatenate(meant)


def trees_of(model: HistGradientBoostingClassifier) -> list[dict[str, NDArray[Any]]]:
    """Return the trees of a boosted model in the form that `plant` takes."""
    return [tree_of(predictor.nodes, k, len(model.classes_)) for round_ in model._predictors for k, predictor in enumerate(round_)]


def tree_of(nodes: NDArray[Any], k: int, classes: int) -> dict[str, NDArray[Any]]:
    leaf = nodes["is_leaf"].astype(bool)
    votes = np.zeros((len(nodes), classes), dtype=np.float32)
    votes[:, k] = nodes["value"]
    return {
        "feature": np.where(leaf, -1, nodes["feature_idx"].astype(int)),
        "threshold": nodes["num_threshold"],
        "left": nodes["left"],
        "right": nodes["right"],
        "votes": votes,
    }


def grow(slides: Sequence[Slide], bare: Sequence[Slide], sigmas: tuple[float, ...], notes: dict[str, Any]) -> Forest:
    """Train one forest on slides, and on fewer pixels of the same slides in one stain."""
    empty = {"feature": [-1], "threshold": [0], "left": [0], "roots": [0], "votes": [[0, 0, 0]], "base": [0, 0, 0]}
    asked: dict[str, Any] = {"sigmas": sigmas, "structure": False, "planes": len(slides[0].planes), "link": "softmax"}
    arrays: dict[str, Any] = {key: np.array(value) for key, value in empty.items()}
    blank = Forest(**arrays, **asked, notes={})
    parts = [examples(slides, blank), examples(bare, blank, ONE_STAIN)]
    shown, meant = (np.concatenate(both) for both in zip(*parts, strict=True))
    model = HistGradientBoostingClassifier(
        max_iter=ROUNDS,
        max_depth=DEPTH,
        max_leaf_nodes=LEAVES,
        learning_rate=RATE,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=0,
    ).fit(shown, meant)
    base = model._baseline_prediction.reshape(-1).astype(np.float32)
    grown: dict[str, Any] = plant(trees_of(model))
    return Forest(**grown, base=base, **asked, notes={**notes, "pixels": len(shown)})


def judged(slides: Sequence[Slide], forest: Forest) -> list[Slide]:
    """Add to each slide what a forest thinks of it."""
    return [replace(slide, planes=with_context(slide.planes, forest.probabilities(slide.planes, slide.looked_at))) for slide in slides]


def train(slides: Sequence[Slide], notes: dict[str, Any]) -> tuple[Forest, Forest]:
    """Train both forests."""
    bare = [slide.without_second_stain() for slide in slides]
    first = grow(slides, bare, SIGMAS, notes)
    context: list[list[Slide]] = [[], []]
    for part, other in ((0, 1), (1, 0)):
        half = grow(slides[other::2], bare[other::2], SIGMAS, notes)
        context[0] += judged(slides[part::2], half)
        context[1] += judged(bare[part::2], half)
    return first, grow(context[0], context[1], CONTEXT_SIGMAS, notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    pairs = [pair for pair in read_pairs(given.folder) if pair.kind in KINDS and pair.part == "tune"]
    notes = {"trained_on": f"{len(pairs)} images of BBBC038 (CC0), the part 'tune' of benchmarks.accuracy"}
    for file, forest in zip(FOREST_FILES, train([read_slide(pair) for pair in pairs], notes), strict=True):
        forest.save(given.target / file.name)
        print(f"{file.name}: {len(forest.roots)} trees, {len(forest.feature)} nodes, hash {forest.content_hash}")


if __name__ == "__main__":
    main()
