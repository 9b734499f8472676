"""Two runs side by side, or a run beside truth: which images differ, by how many objects, and how well the objects match."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segkit import scoring
from segkit.errors import NoResultError
from segkit.images import Selection, open_image
from segkit.reports.pieces import BLUE, ORANGE, Piece, facts, plots, table
from segkit.runs import Run

#: How label images of truth are called, beside the image's own name.
ENDINGS = (".labels.tif", ".labels.png", "_labels.tif", "_labels.png", "_masks.tif", "_masks.png", ".tif", ".tiff", ".png")
IOU = (0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Pair:
    """One image, looked at twice."""

    image: str
    first: int  #: objects
    second: int
    scores: scoring.Scores


@dataclass(frozen=True)
class Comparison:
    """How two looks at the same images agree; each property is one piece of the report."""

    first: str
    second: str
    pairs: tuple[Pair, ...]
    alone: tuple[str, ...]  #: images that only one of them has

    @property
    def summary(self) -> Piece:
        """The agreement over all images: every object weighs the same."""
        pooled = scoring.pool(pair.scores for pair in self.pairs)
        known: dict[str, Any] = {
            "images in both": len(self.pairs),
            "images in one alone": len(self.alone) or None,
            f"objects, {self.first}": sum(pair.first for pair in self.pairs),
            f"objects, {self.second}": sum(pair.second for pair in self.pairs),
        }
        known |= {f"F1 at IoU {threshold}": pooled.at(threshold).f1 for threshold in IOU}
        return facts(f"{self.first} and {self.second}", known)

    @property
    def images(self) -> Piece:
        """Every image in both, those that agree least first."""
        rows = [(pair.image, pair.first, pair.second, pair.second - pair.first, pair.scores.at(0.5).f1) for pair in self.pairs]
        rows.sort(key=lambda row: (row[4], -abs(row[3])))
        return table(("image", self.first, self.second, "difference", "F1 at IoU 0.5"), rows)

    @property
    def counts(self) -> Piece:
        """Objects of each image in one against the other, and how well objects match as more overlap is asked for."""
        return plots(f"{self.first} and {self.second}", [("objects per image", self._draw_counts), ("F1 by overlap", self._draw_scores)])

    def _draw_counts(self, axes: Any) -> None:
        first, second = ([getattr(pair, name) for pair in self.pairs] for name in ("first", "second"))
        most = max((*first, *second, 1))
        axes.plot([0, most], [0, most], color=ORANGE, linewidth=1)
        axes.scatter(first, second, s=12, color=BLUE, alpha=0.6)
        axes.set_xlabel(self.first, fontsize=8)
        axes.set_ylabel(self.second, fontsize=8)

    def _draw_scores(self, axes: Any) -> None:
        pooled = scoring.pool(pair.scores for pair in self.pairs)
        axes.plot(pooled.thresholds, [pooled.at(threshold).f1 for threshold in pooled.thresholds], color=BLUE, marker="o", markersize=3)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("IoU", fontsize=8)

    @property
    def left_out(self) -> Piece:
        """Images that only one of them has."""
        return table(("image",), [(name,) for name in self.alone])


def compare(first: Run, second: Run) -> Comparison:
    """Compare two runs over the images that both have.

    Raises
    ------
    NoResultError
        There is no image that both have.
    """
    results = {each.record.image_id: each for each in first.results()}
    pairs, alone = [], dict.fromkeys(each.record.image for each in results.values())
    for other in second.results():
        mine = results.get(other.record.image_id)
        if mine is None:
            alone[other.record.image] = None
            continue
        alone.pop(other.record.image, None)
        pairs.append(pair_of(other.record.image, mine.labels(), other.labels()))
    return comparison(f"run {first.number}", f"run {second.number}", pairs, list(alone))


def compare_with_truth(run: Run, folder: str | Path) -> Comparison:
    """Compare a run with label images that are true.

    Parameters
    ----------
    folder : path
        Holds a label image for each image, called as the image is, or with ".labels", "_labels" or "_masks" before its ending.

    Raises
    ------
    NoResultError
        No label image there belongs to an image of the run.
    """
    place, pairs, alone = Path(folder), [], []
    for each in run.results():
        path = next(truths(place, each.record.image), None)
        if path is None:
            alone.append(each.record.image)
        else:
            pairs.append(pair_of(each.record.image, read_truth(path), each.labels()))
    return comparison("truth", f"run {run.number}", pairs, alone)


def truths(folder: Path, image: str) -> Iterator[Path]:
    """Go through the files that may hold an image's truth."""
    stem = image.removesuffix("".join(Path(image).suffixes[-1:]))
    yield from (path for ending in ENDINGS if (path := folder / f"{stem}{ending}").is_file())


def read_truth(path: Path) -> NDArray[Any]:
    """Read a label image: (rows, columns) of integers, 0 on background."""
    with open_image(str(path)) as image:
        pixels = image.plane(Selection())
    return pixels if pixels.ndim == 2 else pixels[..., 0]


def pair_of(image: str, first: NDArray[Any], second: NDArray[Any]) -> Pair:
    """Score one image."""
    scores = scoring.score(first, second)
    return Pair(image, scores.truth, scores.found, scores)


def comparison(first: str, second: str, pairs: list[Pair], alone: list[str]) -> Comparison:
    """Make the comparison, of at least one image."""
    if not pairs:
        raise NoResultError(f"No image has both {first} and {second}.")
    return Comparison(first, second, tuple(pairs), tuple(alone))
