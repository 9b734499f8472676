"""A forest of decision trees over the features of pixels: kept as plain arrays, read without running anything, fast without scikit-learn.

A forest says of each pixel how likely it is background, the inside of an object, or an object's border.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import ModelFileError
from segkit.kernels.features import feature_count, pixel_features, reach
from segkit.kernels.forests import add_level_votes, add_votes, depths, levels_of, walkable

FORMAT = "segkit-forest-1"

#: What a forest tells apart, in the order of its votes.
CLASSES = ("background", "object", "border")
BACKGROUND, OBJECT, BORDER = range(3)

#: Rows that are looked at together: bounds the memory that features need.
_BAND = 256

_ARRAYS = {"feature": np.int16, "threshold": np.float32, "left": np.int32, "roots": np.int32, "votes": np.float32, "base": np.float32}
_LARGEST_FILE = 512 * 2**20


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees as flat arrays (see `segkit.kernels.forests`), and what they must be shown."""

    feature: NDArray[np.int16]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    roots: NDArray[np.int32]
    votes: NDArray[np.float32]
    #: (classes,) what every pixel starts with
    base: NDArray[np.float32]
    #: scales of the features, in pixels
    sigmas: tuple[float, ...]
    #: whether the structure tensor is among the features
    structure: bool
    #: how many planes a pixel's features are computed in
    planes: int
    #: "mean": votes are averaged; "softmax": they are summed, and the exponentials compared
    link: str
    #: whatever else is worth knowing about it; travels in the file
    notes: dict[str, Any]

    @property
    def reach(self) -> int:
        """How far around a pixel its features look."""
        return reach(self.sigmas, self.structure)

    @cached_property
    def content_hash(self) -> str:
        """Names the forest by what it holds: the same trees have the same hash in whatever file they are."""
        digest = hashlib.blake2b(_header(self).encode(), digest_size=20)
        for name in _ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return digest.hexdigest()

    @cached_property
    def _walkable(self) -> tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
        return *walkable(self.feature, self.threshold, self.left), depths(self.feature, self.left, self.roots)

    @cached_property
    def _levels(self) -> tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.float32]] | None:
        return levels_of(self.feature, self.threshold, self.left, self.roots, self.votes)

    def probabilities(self, planes: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Tell what the pixels in a mask are.

        Parameters
        ----------
        planes : (planes, rows, columns) float32
        mask : (rows, columns) bool

        Returns
        -------
        (rows, columns, classes) float32
            How likely each class is; certainly background outside the mask. A pixel farther than `reach` from a cut has
            the same numbers, to the last bit, however the image was cut.
        """
        out = np.zeros((*mask.shape, len(self.base)), dtype=np.float32)
        out[..., BACKGROUND] = 1
        for rows, around in _bands(mask, self.reach):
            wanted = mask[rows].copy()
            inner = np.zeros((around.stop - around.start, mask.shape[1]), dtype=bool)
            inner[rows.start - around.start : rows.stop - around.start] = wanted
            out[rows][wanted] = self._decide(planes[:, around], inner)
        return out

    def features(self, planes: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return what the trees are shown of the pixels in a mask: (pixels, features) float32."""
        return np.hstack([pixel_features(plane, mask, self.sigmas, self.structure) for plane in planes])

    def _decide(self, planes: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        features = self.features(planes, mask)
        total = np.tile(self.base, (len(features), 1))
        self._vote(features, total)
        if self.link == "softmax":
            total = np.exp(total - total.max(axis=1, keepdims=True))
        return total / total.sum(axis=1, keepdims=True)

    def _vote(self, features: NDArray[np.float32], total: NDArray[np.float32]) -> None:
        if self._levels is not None:
            add_level_votes(features, *self._levels, total)
            return
        feature, threshold, left, steps = self._walkable
        add_votes(features, feature, threshold, left, self.roots, steps, self.votes, total)

    def save(self, target: str | Path | io.BytesIO) -> None:
        """Write the forest as an npz file of plain arrays."""
        header = np.frombuffer(_header(self).encode(), dtype=np.uint8)
        np.savez_compressed(target, header=header, **{name: getattr(self, name) for name in _ARRAYS})


def load_forest(source: bytes, name: str = "the model") -> Forest:
    """Read a forest from the bytes of its file, and check that it can be walked: nothing in the file is ever run.

    Raises
    ------
    ModelFileError
        When the bytes are not such a file, or their arrays do not fit together.
    """
    try:
        with np.load(io.BytesIO(source), allow_pickle=False) as file:
            _check_size(file, name)
            header = json.loads(file["header"].tobytes())
            arrays = {key: np.ascontiguousarray(file[key], dtype=dtype) for key, dtype in _ARRAYS.items()}
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelFileError(f"{name} is not a saved classifier: {error}. Save one with segkit's `train(...).save(...)`.") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelFileError(f"{name} is not a classifier that this segkit knows: its format is {header!r:.60}.")
    forest = Forest(
        **arrays,
        sigmas=tuple(float(sigma) for sigma in header["sigmas"]),
        structure=bool(header["structure"]),
        planes=int(header["planes"]),
        link=str(header["link"]),
        notes=dict(header.get("notes", {})),
    )
    _check(forest, name)
    return forest


def _header(forest: Forest) -> str:
    said = {"format": FORMAT, "sigmas": forest.sigmas, "structure": forest.structure, "planes": forest.planes, "link": forest.link}
    return json.dumps({**said, "notes": forest.notes}, sort_keys=True)


def _check_size(file: Any, name: str) -> None:
    if sum(entry.file_size for entry in file.zip.infolist()) > _LARGEST_FILE:
        raise ModelFileError(f"{name} unpacks to more than {_LARGEST_FILE >> 20} MiB, which no classifier needs.")


def _check(forest: Forest, name: str) -> None:
    """Refuse trees that would send a walk out of bounds or round in circles."""
    nodes, inner = len(forest.feature), forest.feature >= 0
    here = np.arange(nodes)
    sound = (
        all(len(array) == nodes for array in (forest.threshold, forest.left, forest.votes))
        and forest.votes.ndim == 2
        and forest.base.shape == (len(CLASSES),) == forest.votes.shape[1:]
        and len(forest.roots) > 0
        and bool(forest.roots[0] == 0 and (np.diff(forest.roots) > 0).all() and forest.roots[-1] < nodes)
        and bool(((forest.left[inner] > here[inner]) & (forest.left[inner] + 1 < nodes)).all())
        and int(forest.feature.max(initial=-1)) < feature_count(len(forest.sigmas), forest.structure) * forest.planes
        and all(0.3 <= sigma <= 100 for sigma in forest.sigmas)
        and forest.link in ("mean", "softmax")
        and bool(np.isfinite(forest.votes).all() and np.isfinite(forest.base).all())
    )
    if not sound:
        raise ModelFileError(f"{name} holds trees that do not fit together. Train and save it again.")


def _bands(mask: NDArray[np.bool_], margin: int) -> Iterator[tuple[slice, slice]]:
    """Yield bands of rows that hold wanted pixels: those rows, and those rows with a margin."""
    used = np.flatnonzero(mask.any(axis=1))
    for top in range(0, len(mask), _BAND):
        stop = min(top + _BAND, len(mask))
        if np.searchsorted(used, top) < np.searchsorted(used, stop):
            yield slice(top, stop), slice(max(top - margin, 0), min(stop + margin, len(mask)))


def plant(trees: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Lay trees out in flat arrays: level by level, the right child just after the left one.

    Each tree is a dict of `feature` (negative at leaves), `threshold`, `left`, `right` and `votes` (nodes, classes), with
    the root first.
    """
    parts: dict[str, list[NDArray[Any]]] = {key: [] for key in ("feature", "threshold", "left", "votes")}
    roots, start = [], 0
    for tree in trees:
        order, left = _level_order(tree)
        leaf = tree["feature"][order] < 0
        parts["feature"].append(np.where(leaf, -1, tree["feature"][order]))
        parts["threshold"].append(np.where(leaf, 0, tree["threshold"][order]))
        parts["left"].append(np.where(leaf, 0, left + start))
        parts["votes"].append(np.where(leaf[:, None], tree["votes"][order], 0))
        roots.append(start)
        start += len(order)
    flat: dict[str, NDArray[Any]] = {key: np.concatenate(arrays).astype(_ARRAYS[key]) for key, arrays in parts.items()}
    return {**flat, "roots": np.array(roots, dtype=np.int32)}


def _level_order(tree: dict[str, NDArray[Any]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    order, left = [0], []
    for node in order:
        left.append(len(order))
        if tree["feature"][node] >= 0:
            order += [int(tree["left"][node]), int(tree["right"][node])]
    return np.array(order), np.array(left)
