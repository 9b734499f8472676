"""How well the segmenters find the objects of a folder of images with hand-made truth.

    python -m benchmarks.accuracy                          every kind of ../shared/data/dsb2018, each with its segmenter
    python -m benchmarks.accuracy FOLDER --segmenter nuclei   one segmenter for all
    python -m benchmarks.accuracy --segmenter tissue-net --kind color,bright-gray   the kinds that it is for
    python -m benchmarks.accuracy --part report --json     the held-back part alone, ending in one JSON line
    python -m benchmarks.accuracy --quick                  a few images of each kind, under a minute

A folder holds pairs `NAME.png` and `NAME.labels.png`; its `index.csv` with the columns `file` and `kind` groups them, and
without one every pair is of the kind "all". Parameters are chosen on the part "tune" and judged on the part "report": a
hash of the file's name decides which, so the division is the same on every machine. Beside ours stand the plain
scikit-image recipe and, where they are installed with their weights, Cellpose and StarDist.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2gray
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.io import imread
from skimage.measure import label
from skimage.segmentation import watershed
from tqdm import tqdm

from benchmarks import report
from benchmarks.worst import draw_worst, faults
from segkit import segment
from segkit.errors import InvertedContrastError, MissingExtraError, ModelFileError
from segkit.scoring import Scores, per_image, pool, score
from segkit.segmenters import get
from segkit.segmenters.network import NUCLEI, TISSUE, read_card

FOLDER = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "dsb2018"
PICTURES = Path(__file__).resolve().parents[1] / "artefacts"
PARTS = ("tune", "report")
#: The segmenter of each kind of image, and the kind whose figures are also given without its name.
SEGMENTERS = {"fluo": "nuclei", "color": "tissue", "bright-gray": "tissue", "all": "nuclei"}
MAIN_KIND = "fluo"
#: Segmenters that look through a network that segkit carries, and which that is.
NETWORKED = {"nuclei": NUCLEI, "nuclei-net": NUCLEI, "tissue": TISSUE, "tissue-net": TISSUE}
#: What they are without one.
CLASSICAL = {NUCLEI: "nuclei", TISSUE: "tissue"}
#: Kinds in which the objects are darker than what surrounds them.
DARK_OBJECTS = ("color", "bright-gray")
KEYS = ("f1_50", "f1_70", "ap_50", "ap_mean", "pq")
COLUMNS = ("method", "part", "images", "objects", "F1@0.5", "F1@0.7", "AP@0.5", "mean AP", "PQ", "miscount", "ms")
#: A quick run takes so many images of each kind at most, and so many bytes of files.
QUICK, QUICK_BYTES = 12, 1_300_000
WORST = 20

Method = Callable[[NDArray[Any], str], NDArray[np.int32]]


@dataclass(frozen=True)
class Pair:
    """One image and its hand-made labels."""

    image: Path
    labels: Path
    kind: str

    @property
    def name(self) -> str:
        """The file's name without its ending, by which its part is decided."""
        return self.image.stem

    @property
    def digest(self) -> int:
        """A number that shuffles the pairs, the same way everywhere."""
        return int(hashlib.sha256(self.name.encode()).hexdigest(), 16)

    @property
    def part(self) -> str:
        """Which part the pair is in: "tune" or "report"."""
        return PARTS[self.digest % 2]

    def read(self) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Return the image, gray or RGB, and its label image."""
        image = imread(self.image)
        return (image[..., :3] if image.ndim == 3 else image), imread(self.labels).astype(np.int32)


@dataclass(frozen=True)
class Outcome:
    """What one method made of one pair."""

    pair: Pair
    scores: Scores
    seconds: float


def read_pairs(folder: Path | str) -> list[Pair]:
    """List the pairs of a folder, in the order of their shuffled names."""
    folder = Path(folder)
    kinds = {}
    if (folder / "index.csv").exists():
        with (folder / "index.csv").open(newline="") as file:
            kinds = {row["file"]: row["kind"] for row in csv.DictReader(file)}
    images = [path for path in sorted(folder.glob("*.png")) if not path.name.endswith(".labels.png")]
    pairs = [Pair(path, path.with_suffix(".labels.png"), kinds.get(path.name, "all")) for path in images]
    return sorted((pair for pair in pairs if pair.labels.exists()), key=lambda pair: pair.digest)


def few(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the first pairs, fewer where images are large."""
    sizes = np.cumsum([pair.image.stat().st_size for pair in pairs])
    return list(pairs[: max(1, min(QUICK, int(np.searchsorted(sizes, QUICK_BYTES))))])


# Methods


def plain_recipe(image: NDArray[Any], kind: str) -> NDArray[np.int32]:
    """Segment as a scikit-image tutorial does: Gaussian, Otsu, fill holes, watershed on the distance to the edge."""
    gray = (rgb2gray(image) if image.ndim == 3 else image).astype(float)
    smooth = gaussian(-gray if kind in DARK_OBJECTS else gray, 1, preserve_range=True)
    if smooth.min() == smooth.max():
        return np.zeros(gray.shape, dtype=np.int32)
    mask = ndimage.binary_fill_holes(smooth > threshold_otsu(smooth))
    distance = ndimage.distance_transform_edt(mask)
    seeds = np.zeros(gray.shape, dtype=np.int32)
    places = peak_local_max(distance, min_distance=7, labels=label(mask))
    seeds[tuple(places.T)] = np.arange(1, len(places) + 1)
    return watershed(-distance, seeds, mask=mask).astype(np.int32)


def ours(name: str, **told: Any) -> Method:
    """One of our segmenters with its defaults, but for what it is `told`."""

    def method(image: NDArray[Any], kind: str) -> NDArray[np.int32]:
        try:
            return segment(as_colour(image) if get(name).colour else as_gray(image, kind), name, **told)
        except InvertedContrastError:  # refused: nothing is found, and the score says so
            return np.zeros(image.shape[:2], dtype=np.int32)

    return method


def as_gray(image: NDArray[Any], kind: str) -> NDArray[Any]:
    """Return one plane; of colour the brightness, and with dark objects the negative."""
    gray = np.rint(rgb2gray(image) * 255).astype(np.uint8) if image.ndim == 3 else image
    return np.iinfo(gray.dtype).max - gray if kind in DARK_OBJECTS else gray


def as_colour(image: NDArray[Any]) -> NDArray[Any]:
    """Return RGB; gray becomes three equal channels."""
    return image if image.ndim == 3 else np.stack([image] * 3, axis=-1)


def methods_of(kind: str, segmenter: str | None) -> dict[str, Method]:
    """Return ours and its peers; beside what looks through a network stands its classical recipe."""
    name = segmenter or SEGMENTERS.get(kind, SEGMENTERS["all"])
    before = CLASSICAL[NETWORKED[name]] if name in NETWORKED else ""
    classical = {f"{before}, classical": ours(before, recipe="classical")} if before else {}
    peers = [peer for peer in ("cellpose", "stardist") if peer != name]
    return {name: ours(name), **classical, "scikit-image, plain": plain_recipe, **{peer: ours(peer) for peer in peers}}


# Running


def run(pairs: Sequence[Pair], name: str, method: Method, *, quiet: bool) -> list[Outcome] | str:
    """Score a method on every pair; a sentence where it cannot run here."""
    outcomes = []
    for pair in tqdm(pairs, desc=f"{pair_kind(pairs)}: {name}", disable=quiet, leave=False):
        image, truth = pair.read()
        started = time.perf_counter()
        try:
            labels = method(image, pair.kind)
        except (MissingExtraError, ModelFileError) as error:
            return str(error)
        outcomes.append(Outcome(pair, score(truth, labels), time.perf_counter() - started))
    return outcomes


def pair_kind(pairs: Sequence[Pair]) -> str:
    """Return the kind that the pairs have in common."""
    return pairs[0].kind if pairs else ""


def figures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the figures of a benchmark's JSON for some outcomes, objects pooled over images."""
    pooled = pool(outcome.scores for outcome in outcomes)
    means = per_image(outcome.scores for outcome in outcomes)
    return {
        **{key: round(value, 4) for key, value in pooled.as_dict().items()},
        "f1_50_per_image": round(means["f1_50"], 4),
        "ap_mean_per_image": round(means["ap_mean"], 4),
        "images": len(outcomes),
        "objects": pooled.truth,
        "ms_per_image": round(1000 * float(np.median([outcome.seconds for outcome in outcomes])), 1),
    }


# Printing


def judge(kind: str, pairs: list[Pair], given: argparse.Namespace) -> dict[str, Any]:
    """Run every method on the pairs of one kind, print its table, save its worst images, and return the figures of ours."""
    parts = [part for part in (*PARTS, "all") if given.part in ("all", part)]
    results = {name: run(pairs, name, method, quiet=given.json) for name, method in methods_of(kind, given.segmenter).items()}
    found = {name: by_part(outcomes, parts) for name, outcomes in results.items() if not isinstance(outcomes, str)}
    rows = [row(name, part, values) for name, parts_of in found.items() for part, values in parts_of.items()]
    print(f"\n{kind}: {len(pairs)} images\n" + "\n".join("".join(line) for line in laid_out([list(COLUMNS), *rows])))
    for name, reason in results.items():
        if isinstance(reason, str):
            print(f"{name}: not run. {reason}")
    name, method = next(iter(methods_of(kind, given.segmenter).items()))
    if name not in found:
        return {}
    print(seen_by(name, pairs), end="\n" if name in NETWORKED else "")
    print(f"worst images: {save_worst(kind, cast('list[Outcome]', results[name]), method, given.segmenter)}", flush=True)
    held = found[name]
    return {**held.get("report", next(iter(held.values()))), "parts": held}


def seen_by(name: str, pairs: Sequence[Pair]) -> str:
    """Say which of the images the weights that a segmenter carries have seen."""
    if name not in NETWORKED:
        return ""
    kind = NETWORKED[name]
    card = read_card(str(kind.shipped), kind)
    names = {part: sorted({pair.name for pair in pairs} & set(card[part])) for part in ("trained_on", "validated_on")}
    neither = len(pairs) - sum(map(len, names.values()))
    lines = [
        f"{part.replace('_', ' ')}: {len(held)} of these images: {' '.join(each[:8] for each in held)}" for part, held in names.items()
    ]
    return "\n".join([*lines, f"never seen by the weights: {neither} of these images"])


def by_part(outcomes: Sequence[Outcome], parts: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return the figures of each part in which there are images; "all" is both."""
    chosen = {part: [outcome for outcome in outcomes if part in ("all", outcome.pair.part)] for part in parts}
    return {part: figures(held) for part, held in chosen.items() if held}


def laid_out(rows: Sequence[Sequence[Any]]) -> list[list[str]]:
    """Pad the cells of a table to the widths of their columns, whatever the width of the terminal."""
    widths = [max(len(str(line[column])) for line in rows) for column in range(len(rows[0]))]
    return [[str(cell).rjust(width + 2) for cell, width in zip(line, widths, strict=True)] for line in rows]


def row(name: str, part: str, values: dict[str, float]) -> list[Any]:
    """Return one line of the table."""
    scores = [f"{values[key]:.3f}" for key in (*KEYS, "count_error")]
    return [name, part, values["images"], values["objects"], *scores, round(values["ms_per_image"])]


def save_worst(kind: str, outcomes: Sequence[Outcome], method: Method, segmenter: str | None) -> Path:
    """Draw the images with the lowest scores, truth and what was found in different colours; return where."""
    PICTURES.mkdir(exist_ok=True)
    target = PICTURES / f"accuracy-worst-{f'{segmenter}-' if segmenter else ''}{kind}.png"
    panels = []
    for outcome in sorted(outcomes, key=lambda outcome: (outcome.scores.at(0.5).f1, outcome.scores.ap_mean))[:WORST]:
        image, truth = outcome.pair.read()
        at = outcome.scores.at(0.5)
        labels = method(image, kind)
        said = f"{outcome.pair.name[:16]} F1 {at.f1:.2f} AP {outcome.scores.ap_mean:.2f}, {outcome.scores.found} of {outcome.scores.truth}"
        panels.append((f"{said}: {faults(truth, labels)}", image, truth, labels))
    draw_worst(panels, target)
    return target.relative_to(PICTURES.parent)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = report.arguments(__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="image and label pairs (default: ../shared/data/dsb2018)")
    parser.add_argument("--segmenter", help="use this one for every kind")
    parser.add_argument("--kind", help="run this kind of images alone, or several with commas between")
    parser.add_argument("--part", choices=("all", *PARTS), default="all", help="which part to run (default: all, which prints both)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(argv)
    pairs = [pair for pair in read_pairs(given.folder) if given.part in ("all", pair.part)] if given.folder.is_dir() else []
    pairs = [pair for pair in pairs if given.kind is None or pair.kind in given.kind.split(",")]
    if not pairs:
        print(
            f"skipped: no pairs NAME.png and NAME.labels.png in {given.folder}" if given.folder.is_dir() else "skipped: no DSB2018 folder"
        )
        return
    found = {}
    for kind in sorted({pair.kind for pair in pairs}, key=lambda kind: (kind != MAIN_KIND, kind)):
        of_kind = [pair for pair in pairs if pair.kind == kind]
        found[kind] = judge(kind, few(of_kind) if given.quick else of_kind, given)
    if given.json:
        main_kind = found.get(MAIN_KIND) or next(iter(found.values()))
        print(json.dumps({**{key: main_kind[key] for key in KEYS if key in main_kind}, **found}))


if __name__ == "__main__":
    main()
