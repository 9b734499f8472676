"""The engine beside plain scikit-image: per step and whole, in one thread and four, and four threads beside two processes.

    python -m benchmarks.engine              2,000 synthetic nuclei in 2048 x 2048, 16 bits
    python -m benchmarks.engine --quick      fewer repetitions
    python -m benchmarks.engine --json       the same, ending in one JSON line
    python -m benchmarks.engine --segmenter nuclei-net   one segmenter: megapixels a second, and four threads beside one; a network
                                         beside PyTorch running the same one, where that is installed (pip install "segkit[train]")

Both run the same recipe: Gaussian, Otsu's threshold, filled holes, labels, distance to the edge, its peaks, watershed. Each time is the
best of several runs that alternate between the two, so that a busy moment does not count against one of them. Threads and processes are
compared with that recipe, whose figures are `threads4_vs_1` and `threads_vs_processes`, and with the default segmenter, `nuclei`.
Segmenters of tissue get the same field as a stained slide. PyTorch runs in one thread too, and is given the network's layers alone,
without what comes before and after: `network_vs_pytorch` compares it with the same layers in onnxruntime.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from statistics import median
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import feature, filters, segmentation
from skimage.measure import label, regionprops_table

from benchmarks.report import arguments, finish, show
from segkit import kernels
from segkit.kernels.components import label_components, number_in_raster_order
from segkit.measure import measure
from segkit.scoring import score
from segkit.segmenters import nuclei, nuclei_net, tissue_net
from segkit.segmenters.network import KINDS
from segkit.segmenters.recipe import NO_MARGINS
from segkit.segmenters.threshold import RECIPE, ThresholdParameters
from segkit.synthetic import nuclei_field

SIZE, NUCLEI = 2048, 2000
PARAMETERS = ThresholdParameters()
#: What threads are compared with: recipe and parameters by name. Others than the plain recipe get a quarter of the field.
RECIPES = {"threshold": (RECIPE, PARAMETERS), "nuclei": (nuclei.RECIPE, nuclei.NucleiParameters())}
RECIPES["nuclei-classical"] = (nuclei.RECIPE, nuclei.NucleiParameters(recipe="classical"))
RECIPES["nuclei-net"] = (nuclei_net.RECIPE, nuclei_net.NucleiNetParameters())
RECIPES["tissue-net"] = (tissue_net.RECIPE, tissue_net.TissueNetParameters())
#: How much red, green and blue a nucleus and what surrounds it take away (haematoxylin and eosin).
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]], dtype=np.float32)
#: What `regionprops_table` is asked for: as near to our measurements as it comes.
PROPERTIES = (
    *("label", "area", "area_filled", "area_convex", "bbox", "centroid", "equivalent_diameter_area", "perimeter", "perimeter_crofton"),
    *("feret_diameter_max", "solidity", "extent", "eccentricity", "orientation", "axis_major_length", "axis_minor_length"),
    *("intensity_mean", "intensity_min", "intensity_max", "intensity_std"),
)


def field(name: str = "threshold") -> NDArray[Any]:
    """Return what a segmenter is given: the nuclei bright on dark, or stained."""
    image = nuclei_field((SIZE, SIZE), NUCLEI, seed=1).image
    if not name.startswith("tissue"):
        return image
    low, high = np.percentile(image, (1, 99.5))
    amounts = np.stack([np.clip((image - low) / (high - low), 0, 1.2), np.full(image.shape, 0.25)], axis=-1).astype(np.float32)
    return np.asarray(np.rint(245 * np.exp(-(amounts @ STAINS))).astype(np.uint8))


def ours(image: NDArray[np.uint16], clock: dict[str, float]) -> NDArray[np.int32]:
    survey = timed(clock, "smooth, threshold", RECIPE.survey, image, 0, 0, PARAMETERS, NO_MARGINS)
    plan = RECIPE.settle(RECIPE.merge([survey], image.shape), image.shape, PARAMETERS, None)
    mask = timed(clock, "foreground", RECIPE.foreground, image, plan, 0, 0)
    components, _ = timed(clock, "label", label_components, mask)
    labels = timed(clock, "fill, distance, peaks, watershed", RECIPE.split, image, components, plan, 0, 0)
    timed(clock, "number", number_in_raster_order, labels)
    return labels


def plain(image: NDArray[np.uint16], clock: dict[str, float]) -> NDArray[np.int32]:
    smoothed = timed(clock, "gaussian", filters.gaussian, image, 1.0, preserve_range=True)
    threshold = timed(clock, "otsu", filters.threshold_otsu, smoothed)
    mask = timed(clock, "fill holes", ndimage.binary_fill_holes, smoothed > threshold)
    components = timed(clock, "label", label, mask)
    depth = timed(clock, "distance", ndimage.distance_transform_edt, mask)
    peaks = timed(clock, "peaks", feature.peak_local_max, depth, min_distance=7, labels=components, exclude_border=False)
    seeds = np.zeros(image.shape, dtype=np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return timed(clock, "watershed", segmentation.watershed, -depth, seeds, mask=mask)


def timed(clock: dict[str, float], name: str, step: Callable[..., Any], *given: Any, **named: Any) -> Any:
    began = time.perf_counter()
    result = step(*given, **named)
    clock[name] = time.perf_counter() - began
    return result


def best(clocks: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return the shortest time of each step, in milliseconds."""
    clocks = list(clocks)
    return {name: 1000 * min(clock[name] for clock in clocks) for name in clocks[0]}


def compare(image: NDArray[np.uint16], rounds: int) -> dict[str, float]:
    """Run both beside each other, print the table, and return the ratios."""
    mine: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    for _ in range(rounds):
        clocks: tuple[dict[str, float], dict[str, float]] = ({}, {})
        labels = timed(clocks[0], "segment", ours, image, clocks[0])
        timed(clocks[0], "measure", measure, labels, image)
        reference = timed(clocks[1], "segment", plain, image, clocks[1])
        timed(clocks[1], "measure", regionprops_table, reference, image, PROPERTIES)
        mine.append(clocks[0])
        theirs.append(clocks[1])
    fast, slow = best(mine), best(theirs)
    show("segkit, one thread", ("step", "ms"), fast.items())
    show("plain scikit-image", ("step", "ms"), slow.items())
    matched = score(reference, labels, thresholds=(0.9,))
    return {
        "segment_vs_scikit_image": slow["segment"] / fast["segment"],
        "whole_vs_scikit_image": (slow["segment"] + slow["measure"]) / (fast["segment"] + fast["measure"]),
        "objects_matched": float(matched.at(0.9).recall),
    }


def rate(work: Callable[[], None], threads: int, images: int) -> float:
    """Return how many images a second this process segments and measures in so many threads."""
    with ThreadPoolExecutor(threads) as pool:
        wait([pool.submit(work) for _ in range(2 * threads)])
        began = time.perf_counter()
        for done in [pool.submit(work) for _ in range(images)]:
            done.result()
        return images / (time.perf_counter() - began)


def one_image(name: str, image: NDArray[Any]) -> None:
    recipe, parameters = RECIPES[name]
    measure(recipe.apply(image, parameters), image if image.ndim == 2 else image[..., 0])


def serve(name: str, threads: int, images: int) -> None:
    """Be one worker process: warm up, say so, and at each line of input work through the images and say the rate."""
    kernels.settle_allocator()
    cv2.setNumThreads(1)
    kernels.warm()
    image = field() if name == "threshold" else quarter(field(name))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(rate(partial(one_image, name, image), threads, images), flush=True)


class Worker:
    """A process that segments when asked to."""

    def __init__(self, name: str, threads: int, images: int) -> None:
        command = [sys.executable, "-m", "benchmarks.engine", "--serve", name, str(threads), str(images)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.listen()

    def ask(self) -> None:
        """Set it to work."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def listen(self) -> str:
        """Wait for the next line that it says."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        """Let it end."""
        self.process.communicate()


def rates_of(workers: list[Worker]) -> float:
    """Return what the workers do together in a second, all at once."""
    for worker in workers:
        worker.ask()
    return sum(float(worker.listen()) for worker in workers)


def scale(name: str, rounds: int, images: int) -> dict[str, float]:
    """Compare one thread, four threads, and two processes of one thread, in turns."""
    one, four, other = Worker(name, 1, images), Worker(name, 4, 2 * images), Worker(name, 1, images)
    turns = [(rates_of([one]), rates_of([four]), rates_of([one, other])) for _ in range(rounds)]
    for worker in (one, four, other):
        worker.close()
    show(f"{name}: images a second", ("one thread", "four threads", "two processes"), turns)
    return {
        "threads4_vs_1": median(four / one for one, four, _ in turns),
        "threads_vs_processes": median(four / two for _, four, two in turns),
    }


def quarter(image: NDArray[Any]) -> NDArray[Any]:
    """Return a megapixel of the field."""
    return np.ascontiguousarray(image[: SIZE // 2, : SIZE // 2])


def speed(name: str, image: NDArray[Any], rounds: int) -> float:
    """Return how many megapixels a second one thread segments, from pixels to labels."""
    recipe, parameters = RECIPES[name]
    clocks: list[dict[str, float]] = []
    for _ in range(rounds + 1):
        clocks.append({})
        timed(clocks[-1], "segment", recipe.apply, image, parameters)
    return image.shape[0] * image.shape[1] / 1e3 / best(clocks[1:])["segment"]


def beside_pytorch(name: str, image: NDArray[Any], rounds: int) -> dict[str, float]:
    """Compare the layers of a shipped network in onnxruntime with the same in PyTorch, where that is installed."""
    if any(importlib.util.find_spec(package) is None for package in ("torch", "onnx")):
        print("skipped: no PyTorch and onnx to run the same network beside it (pip install 'segkit[train]')")
        return {}
    labels = RECIPES[name][0].apply(image, RECIPES[name][1])
    taken = best(importlib.import_module("benchmarks.engine_pytorch").clocks_of(name, image, labels, rounds))
    show(f"The layers of {name}, one thread, a megapixel", ("by", "ms"), taken.items())
    return {"network_vs_pytorch": taken["PyTorch"] / taken["onnxruntime"], "pytorch_megapixels_per_s": 2**20 / 1e3 / taken["PyTorch"]}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--segmenter", choices=sorted(RECIPES), help="only this one: its speed, and what threads bring it")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve[0], *map(int, given.serve[1:]))
        return
    kernels.warm()
    if given.segmenter:
        rounds = 3 if given.quick else 7
        whole = field(given.segmenter)
        rate_of = {"megapixels_per_s": speed(given.segmenter, whole, rounds)}
        rate_of["megapixels_per_s_of_1_megapixel"] = speed(given.segmenter, quarter(whole), rounds)
        if given.segmenter in KINDS:
            rate_of |= beside_pytorch(given.segmenter, quarter(whole), rounds)
        finish(rate_of | scale(given.segmenter, rounds, 4 if given.quick else 12), given.json)
        return
    figures = compare(field(), 2 if given.quick else 7)
    figures |= scale("threshold", 3 if given.quick else 9, 8 if given.quick else 24)
    figures |= {f"nuclei_{key}": value for key, value in scale("nuclei", 3 if given.quick else 7, 4 if given.quick else 12).items()}
    finish(figures, given.json)


if __name__ == "__main__":
    main()
