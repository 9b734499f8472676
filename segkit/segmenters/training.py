"""Learn a classifier from strokes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segkit.errors import MissingExtraError, TrainingError
from segkit.segmenters.classifier import ClassifierModel, Stroke, black_and_white, brightness_counts, even_out
from segkit.segmenters.forest import CLASSES, Forest, plant
from segkit.segmenters.pixels import gray_plane

try:
    from sklearn.ensemble import RandomForestClassifier
except ImportError as error:
    raise MissingExtraError("Training a classifier", "classifier") from error

#: Scales at which pixels are looked at unless others are given.
SIGMAS = (0.7, 1.0, 1.6, 3.5, 5.0, 10.0)


def train(
    images: ArrayLike | Sequence[ArrayLike],
    strokes: ArrayLike | Sequence[ArrayLike],
    *,
    sigmas: Sequence[float] = SIGMAS,
    structure: bool = True,
    even_exposure: bool = False,
    trees: int = 50,
    depth: int = 12,
    seed: int = 0,
) -> ClassifierModel:
    """Learn from strokes what is background, object and border.

    Parameters
    ----------
    images : (rows, columns), or a sequence of such
        One or a few gray planes, of any real numbers.
    strokes : integers of the same shapes
        `Stroke` of each pixel: 0 unpainted, 1 background, 2 object, 3 border. A few strokes are enough; background and
        object must both be there, border is needed only where objects touch.
    sigmas : sequence of float
        Scales at which a pixel's neighbourhood is looked at, in pixels: from 0.3 to 100.
    structure : bool
        Whether to look at the structure tensor too: better on textures, half as fast.
    even_exposure : bool
        Bring every image to one scale of brightness first. For images of different exposure; each must then hold objects.
    trees, depth : int
        Size of the forest. More is slower.
    seed : int
        The same strokes and seed give the same model.

    Returns
    -------
    ClassifierModel
        Its `save` stores it; `segkit.segment(image, "classifier", model=PATH)` uses it.

    Raises
    ------
    TrainingError
        When images and strokes do not fit, or a class is not painted.
    MissingExtraError
        On import of this module, without scikit-learn.

    Examples
    --------
    >>> image = np.zeros((40, 40)); image[10:20, 10:20] = 9
    >>> strokes = np.zeros((40, 40), dtype=int); strokes[12:15, 12:15] = Stroke.OBJECT; strokes[30, 5:30] = Stroke.BACKGROUND
    >>> train(image, strokes, sigmas=(1.0,), trees=5).forest.notes["painted"]
    {'background': 25, 'object': 9, 'border': 0}
    """
    planes, painted = _pairs(images, strokes)
    if even_exposure:
        planes = [_evened(plane) for plane in planes]
    notes = {"evens_exposure": even_exposure, "painted": _count(painted), "images": len(planes)}
    asked: dict[str, Any] = {"sigmas": _scales(sigmas), "structure": structure, "planes": 1, "link": "mean"}
    shown = [_unlearned(asked).features(plane.astype(np.float32)[None], where > 0) for plane, where in zip(planes, painted, strict=True)]
    model = RandomForestClassifier(trees, max_depth=depth, min_samples_leaf=2, class_weight="balanced", random_state=seed, n_jobs=1)
    model.fit(np.concatenate(shown), np.concatenate([where[where > 0] - 1 for where in painted]))
    grown: dict[str, Any] = plant([_tree(tree.tree_, model.classes_) for tree in model.estimators_])
    return ClassifierModel(Forest(**grown, base=np.zeros(len(CLASSES), dtype=np.float32), **asked, notes=notes))


def _pairs(images: Any, strokes: Any) -> tuple[list[NDArray[Any]], list[NDArray[np.int64]]]:
    single = isinstance(images, np.ndarray) and images.ndim == 2
    planes = [gray_plane(image) for image in ([images] if single else images)]
    painted = [np.asarray(stroke) for stroke in ([strokes] if single else strokes)]
    if not planes or [plane.shape for plane in planes] != [stroke.shape for stroke in painted]:
        raise TrainingError("Give as many stroke images as images, each of the shape of its image.")
    if any(stroke.dtype.kind not in "iu" or not np.isin(stroke, list(Stroke)).all() for stroke in painted):
        raise TrainingError("Strokes are the integers 0 (unpainted), 1 (background), 2 (object) and 3 (border).")
    missing = [kind for kind in ("background", "object") if not _count(painted)[kind]]
    if missing:
        raise TrainingError(f"Paint some {' and some '.join(missing)} too: a model needs to see both.")
    return planes, [stroke.astype(np.int64) for stroke in painted]


def _count(painted: Sequence[NDArray[Any]]) -> dict[str, int]:
    return {name: sum(int(np.count_nonzero(stroke == number)) for stroke in painted) for number, name in enumerate(CLASSES, start=1)}


def _scales(sigmas: Sequence[float]) -> tuple[float, ...]:
    scales = tuple(float(sigma) for sigma in sigmas)
    if not scales or not all(0.3 <= sigma <= 100 for sigma in scales):
        raise TrainingError("Scales (sigmas) must be from 0.3 to 100 pixels.")
    return scales


def _evened(plane: NDArray[Any]) -> NDArray[np.float32]:
    black, span = black_and_white(brightness_counts(plane)[0], 0, plane.dtype)
    if span <= 0:
        raise TrainingError("An image of one flat value cannot be evened out: paint on one that holds objects.")
    return even_out(plane, black, span)


def _unlearned(asked: dict[str, Any]) -> Forest:
    leaf = {"feature": [-1], "threshold": [0], "left": [0], "roots": [0], "votes": [[0, 0, 0]], "base": [0, 0, 0]}
    arrays: dict[str, Any] = {key: np.array(value) for key, value in leaf.items()}
    return Forest(**arrays, **asked, notes={})


def _tree(tree: Any, classes: NDArray[Any]) -> dict[str, NDArray[Any]]:
    votes = np.zeros((tree.node_count, len(CLASSES)))
    votes[:, classes.astype(int)] = tree.value[:, 0] / tree.value[:, 0].sum(axis=1, keepdims=True)
    left = tree.children_left
    return {
        "feature": np.where(left < 0, -1, tree.feature),
        "threshold": _rounded_down(tree.threshold),
        "left": left,
        "right": tree.children_right,
        "votes": votes,
    }


def _rounded_down(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the largest float32 not above each threshold: float32 features then compare as they did with the float64."""
    single = threshold.astype(np.float32)
    return np.where(single > threshold, np.nextafter(single, np.float32(-np.inf)), single)
