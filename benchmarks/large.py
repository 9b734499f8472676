"""Large images: time and peak memory of worker and coordinator from 4096 to 32768 squared, beside other tools under the same limit.

    python -m benchmarks.large              4096, 8192, 16384 and 32768 squared; some ten minutes, 3 GB of disk
    python -m benchmarks.large --quick      2048 and 4096 squared, under a minute
    python -m benchmarks.large --json       the same, ending in one JSON line

The image is synthetic: nuclei at the density of 2,000 in 2048 x 2048, written tile by tile as a tiled TIFF, always the same. Each
size runs in a process of its own with one Dask worker (4 threads, 2 GiB). Ours is the whole way that an image of a project goes: a job of
the queue, survey, segment, measure, label image with its pyramid, object table, then the exports to CSV and COCO, whose time stands by
itself. `dask_image.ndmeasure.label` does a part of that: it labels the mask above a fixed threshold, neither split nor measured. Peaks are
the high-water marks of resident memory (VmHWM) of the two processes over all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import psutil
import tifffile
import zarr
from dask_image.ndmeasure import label
from distributed import Client, LocalCluster
from numpy.typing import NDArray

import segkit
from benchmarks import report
from segkit.images import Limits, Selection, open_image
from segkit.synthetic import nuclei_field

FULL = (4096, 8192, 16384, 32768)
QUICK = (2048, 4096)
WORKER_MEMORY = 2 * 2**30
THREADS = 4
EXPORTS = ("csv", "coco")
PIXEL_SIZE_UM = 0.5
#: Chunks of the other tools, and the threshold of their mask.
CHUNK, THRESHOLD = 2048, 1400
#: Edge and nuclei of the fields that the image is put together from: 2,000 nuclei in 2048 x 2048. No multiple of a tile.
FIELD, NUCLEI = 1100, 577


@dataclass(frozen=True)
class Outcome:
    """What one tool did with one image."""

    tool: str
    size: int  #: edge of the image
    seconds: float = 0
    worker_mib: float = 0  #: high-water mark of the worker process
    coordinator_mib: float = 0  #: high-water mark of the process that gave the orders
    cpu_seconds: float = 0  #: of both processes; on a busy machine it says more than the clock
    objects: int = 0
    export_seconds: float = 0  #: not among the seconds
    failure: str = ""  #: why there are no figures

    @property
    def megapixels_per_s(self) -> float:
        """How much of the image it does in a second."""
        return self.size**2 / 1e6 / self.seconds if self.seconds else 0


# The image


def draw_tiles(size: int, edge: int = 512) -> Iterator[NDArray[np.uint16]]:
    """Yield the tiles of the image in raster order; only a few fields are held, never the image."""
    fields = [nuclei_field((FIELD, FIELD), NUCLEI, seed=seed).image for seed in range(4)]
    across = -(-size // FIELD)
    choice = np.random.default_rng(0).integers(len(fields), size=(across, across))
    for top in range(0, size, edge):
        for left in range(0, size, edge):
            tile = np.empty((edge, edge), np.uint16)
            rows, columns = np.arange(top, top + edge), np.arange(left, left + edge)
            for row in np.unique(rows // FIELD):
                for column in np.unique(columns // FIELD):
                    inside = np.ix_(rows // FIELD == row, columns // FIELD == column)
                    there = np.ix_(rows[rows // FIELD == row] % FIELD, columns[columns // FIELD == column] % FIELD)
                    tile[inside] = fields[choice[row, column]][there]
            yield tile


def write_image(path: Path, size: int) -> None:
    tifffile.imwrite(
        path, draw_tiles(size), shape=(size, size), dtype=np.uint16, tile=(512, 512), compression="zstd", bigtiff=True,
        resolution=(1e4 / PIXEL_SIZE_UM, 1e4 / PIXEL_SIZE_UM), resolutionunit="CENTIMETER",
    )  # fmt: skip


# The tools, each in a process of its own


class Watch:
    """Follows this process and those that it starts, however they end. Use as a context manager."""

    def __init__(self) -> None:
        self.worker_mib = 0.0
        self._cpu_seconds: dict[int, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    @property
    def coordinator_mib(self) -> float:
        """The most memory that this process has had."""
        return peak_mib(psutil.Process())

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all of them since the watch began."""
        return sum(self._cpu_seconds.values()) + time.process_time() - self._before

    def __enter__(self) -> Watch:
        self._before = time.process_time()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._over.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError, StopIteration):
                    self.worker_mib = max(self.worker_mib, peak_mib(process))
                    used = process.cpu_times()
                    self._cpu_seconds[process.pid] = used.user + used.system


def peak_mib(process: psutil.Process) -> float:
    """Return the most memory that a process has had, in MiB."""
    line = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def run_segkit(image: Path, size: int, out: Path, segmenter_name: str) -> Outcome:
    options = {"cluster": "local", "workers": 1, "threads_per_worker": THREADS, "worker_memory": WORKER_MEMORY, "tile_above": 2**21}
    with Watch() as watch, segkit.open(out / "home", **options) as kit:
        project = kit.project("large", create=True)
        project.add(image, pixel_size_um=PIXEL_SIZE_UM)
        started = time.perf_counter()
        run = project.segment(segmenter_name)
        kit.work_off([run])
        seconds = time.perf_counter() - started
        if run.progress().done != 1:
            raise RuntimeError(run.failures().items[0].error)
        for format in EXPORTS:
            run.export(format, out / format)
        (result,) = run.results()
        exported = time.perf_counter() - started - seconds
    return Outcome(
        "segkit", size, seconds, watch.worker_mib, watch.coordinator_mib, watch.cpu_seconds, result.record.objects, export_seconds=exported
    )


def read_block(path: str, block: Any) -> NDArray[np.bool_]:
    """Read one block of the mask that the other tools label."""
    (top, bottom), (left, right) = block[0]["array-location"]
    with open_image(path, limits=Limits()) as image:
        return image.region(Selection(), slice(top, bottom), slice(left, right)) > THRESHOLD


def run_dask_image(image: Path, size: int, out: Path, segmenter_name: str) -> Outcome:
    dask.config.set({"distributed.scheduler.allowed-failures": 0, "distributed.worker.memory.terminate": 0.95})
    options = {"n_workers": 1, "threads_per_worker": THREADS, "memory_limit": WORKER_MEMORY, "dashboard_address": None}
    with Watch() as watch, LocalCluster(**options) as workers, Client(workers):
        started = time.perf_counter()
        blocks = da.zeros((size, size), chunks=CHUNK, dtype=bool)
        mask = da.map_blocks(lambda _, block_info=None: read_block(str(image), block_info), blocks, dtype=bool)
        found, count = label(mask, structure=np.ones((3, 3), int))
        _, objects = dask.compute(da.to_zarr(found, str(out / "labels.zarr"), compute=False), count)
        seconds = time.perf_counter() - started
    return Outcome("dask_image", size, seconds, watch.worker_mib, watch.coordinator_mib, watch.cpu_seconds, int(objects))


def run_cellpose(image: Path, size: int, out: Path, segmenter_name: str) -> Outcome:
    distributed_segmentation = import_module("cellpose.contrib.distributed_segmentation")
    source = zarr.create_array(out / "image.zarr", shape=(size, size), chunks=(CHUNK, CHUNK), dtype=np.uint16)
    with open_image(str(image)) as opened:
        for top in range(0, size, CHUNK):
            source[top : top + CHUNK] = opened.region(Selection(), slice(top, top + CHUNK), slice(None))
    started = time.perf_counter()
    _, boxes = distributed_segmentation.distributed_eval(
        input_zarr=source, blocksize=(CHUNK, CHUNK), write_path=str(out / "labels.zarr"), cellpose_eval_args={"diameter": 22},
        cluster_kwargs={"n_workers": 1, "ncpus": 2, "memory_limit": WORKER_MEMORY, "threads_per_worker": 1},
    )  # fmt: skip
    return Outcome("cellpose", size, time.perf_counter() - started, coordinator_mib=peak_mib(psutil.Process()), objects=len(boxes))


TOOLS: dict[str, Callable[[Path, int, Path, str], Outcome]] = {
    "segkit": run_segkit,
    "dask_image": run_dask_image,
    "cellpose": run_cellpose,
}


def run_apart(tool: str, image: Path, size: int, segmenter_name: str, patience: float) -> Outcome:
    """Run one tool in a fresh process, whose figures or last words come back."""
    with tempfile.TemporaryDirectory(dir=image.parent) as out:
        command = [sys.executable, "-m", "benchmarks.large", "--one", tool, str(size), str(image), out, "--segmenter", segmenter_name]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
        except subprocess.TimeoutExpired:
            return Outcome(tool, size, failure=f"not done after {patience:.0f} s")
    if ended.returncode:
        words = [line for line in ended.stderr.splitlines() if line.strip()]
        return Outcome(tool, size, failure=words[-1][:160] if words else f"ended with {ended.returncode}")
    return Outcome(**json.loads(ended.stdout.splitlines()[-1]))


# The report


def measure_all(sizes: tuple[int, ...], peer_sizes: tuple[int, ...], folder: Path, segmenter_name: str, patience: float) -> list[Outcome]:
    """Run ours at every size and the installed others at theirs; one that failed is not tried at larger sizes."""
    outcomes: list[Outcome] = []
    tools = [tool for tool in TOOLS if is_installed(tool)]
    for size in sizes:
        image = folder / f"{size}.tif"
        write_image(image, size)
        for tool in list(tools):
            if tool != "segkit" and size not in peer_sizes:
                continue
            outcomes.append(run_apart(tool, image, size, segmenter_name, patience))
            print(f"{size} squared: {tool} {outcomes[-1].failure or f'{outcomes[-1].seconds:.1f} s'}", file=sys.stderr, flush=True)
            if outcomes[-1].failure:
                tools.remove(tool)
        image.unlink()
    return outcomes


def is_installed(tool: str) -> bool:
    return tool == "segkit" or find_spec(tool) is not None


def cells(outcome: Outcome) -> tuple[Any, ...]:
    """One row of the table."""
    start = (outcome.tool, outcome.size)
    if outcome.failure:
        return *start, outcome.failure, *[""] * 6
    figures = (outcome.seconds, outcome.export_seconds, outcome.cpu_seconds, outcome.megapixels_per_s)
    return *start, *figures, outcome.worker_mib, outcome.coordinator_mib, outcome.objects


def summarise(outcomes: list[Outcome], small: int, large: int) -> dict[str, float]:
    """Return the figures by their keys; that of memory is named after the sizes it compares. None are there if ours failed."""
    ours = {outcome.size: outcome for outcome in outcomes if outcome.tool.startswith("segkit") and not outcome.failure}
    if small not in ours or large not in ours:
        return {}
    key = f"memory_{large // 1024}k_vs_{small // 1024}k"
    worker = ours[large].worker_mib / ours[small].worker_mib
    coordinator = ours[large].coordinator_mib / ours[small].coordinator_mib
    return {
        key: max(worker, coordinator),
        f"{key}_worker": worker,
        f"{key}_coordinator": coordinator,
        "peak_mib": ours[large].worker_mib,
        "peak_mib_coordinator": ours[large].coordinator_mib,
        "megapixels_per_s": ours[large].megapixels_per_s,
        "export_seconds": ours[large].export_seconds,
    }


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--segmenter", default="threshold", help="a tile-exact segmenter; nuclei looks five times longer at each pixel")
    parser.add_argument("--folder", type=Path, help="where images and results lie as long as it takes; default: a temporary folder")
    parser.add_argument("--one", nargs=4, metavar=("TOOL", "SIZE", "IMAGE", "OUT"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        tool, size, image, out = chosen.one
        print(json.dumps(asdict(TOOLS[tool](Path(image), int(size), Path(out), chosen.segmenter))))
        return
    sizes, peer_sizes, compared = (QUICK, QUICK[1:], QUICK) if chosen.quick else (FULL, FULL, FULL[1::2])
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        outcomes = measure_all(sizes, peer_sizes, Path(folder), chosen.segmenter, 120 if chosen.quick else 1800)
    title = f"Large images, segmenter {chosen.segmenter}: one worker, {THREADS} threads, {WORKER_MEMORY // 2**20} MiB; peaks in MiB"
    report.show(title, ("tool", "edge", "s", "export s", "CPU s", "Mpx/s", "worker", "coordinator", "objects"), map(cells, outcomes))
    for tool in TOOLS:
        if not is_installed(tool):
            print(f"{tool}: not installed")
    if chosen.quick:
        print(f"quick: {QUICK[0]} and {QUICK[1]} squared stand in for 8192 and 32768, before memory has levelled off")
    report.finish(summarise(outcomes, *compared), chosen.json)


if __name__ == "__main__":
    main()
