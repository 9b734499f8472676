"""What a network is trained on: images with their hand-made labels, from a folder, and how they are divided."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from skimage.io import imread

from segkit import results
from segkit.errors import TrainingError
from segkit.segmenters.recipe import LabelArray

if TYPE_CHECKING:
    from segkit.runs import Run

#: Endings of files that are read.
ENDINGS = (".png", ".tif", ".tiff")
#: Every image of a collection is in one of these: the first is trained on, the second is only reported on.
PARTS = ("tune", "report")


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image and its labels."""

    #: by which the image is told apart from others, and its part decided
    name: str
    #: (rows, columns), or (rows, columns, 3)
    pixels: NDArray[Any]
    #: (rows, columns) int32, 0 on background
    labels: LabelArray

    @property
    def digest(self) -> int:
        """A number that shuffles images, the same way everywhere."""
        return digest_of(self.name)


def digest_of(name: str) -> int:
    """Return a number that shuffles names, the same way everywhere."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16)


def part_of(name: str) -> str:
    """Return the part of a collection that the image of this name is in: "tune" or "report"."""
    return PARTS[digest_of(name) % 2]


def read_folder(folder: Path | str, *, kind: str | None = None, part: str | None = None) -> list[LabelledImage]:
    """Read the pairs `NAME.png` and `NAME.labels.png` (or .tif) of a folder, in the order of their shuffled names.

    Parameters
    ----------
    folder : Path or str
    kind : str, optional
        Only images that `index.csv`, with the columns `file` and `kind`, calls so; of several kinds with commas between.
    part : str, optional
        Only images of one part: "tune" or "report".

    Raises
    ------
    TrainingError
        When there is no pair, or labels do not fit their image.
    """
    folder = Path(folder)
    kinds = _kinds(folder)
    files = [path for path in sorted(folder.glob("*")) if path.suffix in ENDINGS and not path.stem.endswith(".labels")]
    if kind is not None:
        files = [path for path in files if kinds.get(path.name) in kind.split(",")]
    if part is not None:
        files = [path for path in files if part_of(path.stem) == part]
    pairs = [(path, path.with_suffix(f".labels{path.suffix}")) for path in files]
    found = [_read(image, labels) for image, labels in pairs if labels.exists()]
    if not found:
        raise TrainingError(f"There are no pairs NAME.png and NAME.labels.png in {folder}" + (f" of the kind {kind}." if kind else "."))
    return sorted(found, key=lambda image: image.digest)


def _kinds(folder: Path) -> dict[str, str]:
    index = folder / "index.csv"
    if not index.exists():
        return {}
    with index.open(newline="") as file:
        return {row["file"]: row["kind"] for row in csv.DictReader(file)}


def _read(image: Path, labels: Path) -> LabelledImage:
    pixels, marked = imread(image), imread(labels)
    if marked.shape != pixels.shape[:2] or marked.dtype.kind not in "iu":
        raise TrainingError(f"{labels.name} must hold whole numbers in {pixels.shape[0]} rows and {pixels.shape[1]} columns, as its image.")
    return LabelledImage(image.stem, pixels[..., :3] if pixels.ndim == 3 else pixels, marked.astype(np.int32))


def read_results(run: Run, *, corrected: bool = True) -> list[LabelledImage]:
    """Take the results of a run as they are now: by default only those that a person corrected.

    Raises
    ------
    TrainingError
        When there are none.
    """
    chosen = [result for result in run.results() if not corrected or "corrected_by" in results.open_result(result.path).provenance]
    if not chosen:
        raise TrainingError(f"Run {run.number} has no {'corrected ' if corrected else ''}results to learn from. Correct some images first.")
    found = [LabelledImage(result.image.record.content_hash, *result.pair()) for result in chosen]
    return sorted(found, key=lambda image: image.digest)


def divided(images: Iterable[LabelledImage], share: float = 0.12) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Divide images into those that are trained on, and a validation part of this share, at least one, that decides when to stop.

    Images of the same pixels go to the same side, so that nothing is validated on what was trained on.
    """
    groups: dict[bytes, list[LabelledImage]] = {}
    for image in images:
        groups.setdefault(hashlib.sha256(image.pixels.tobytes()).digest(), []).append(image)
    ordered = sorted(groups.values(), key=lambda group: digest_of(f"validation {min(image.name for image in group)}"))
    if len(ordered) < 2:
        raise TrainingError("Training needs at least two different images: one to learn from, one to check on.")
    count = min(max(1, round(share * len(ordered))), len(ordered) - 1)
    return _flat(ordered[count:]), _flat(ordered[:count])


def _flat(groups: Sequence[list[LabelledImage]]) -> list[LabelledImage]:
    return [image for group in groups for image in group]
