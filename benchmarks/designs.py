"""Two designs of a network for nuclei, trained from scratch alike and judged on images that neither saw.

    python -m benchmarks.designs ../shared/data/dsb2018             1,000 steps of 8 crops each
    python -m benchmarks.designs FOLDER --steps 1500 --kept /tmp/d  goes on from what is kept there

"depth": foreground, depth and contact, and a split where the depth drops, as `nuclei-net`. "rays": how deep a pixel lies and how far
its object reaches in 32 directions, and of polygons that overlap the surest, as StarDist; its targets, suppression and polygons are
those of the package `stardist`. Both have the same trunk, crops, variations, steps and seed. They learn from 7 of 10 fluorescence
images of the part "tune"; a fifth of the other images chooses their thresholds, and the rest judges them. The part "report" is not
looked at. Needs PyTorch (`segkit[train]`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stardist.geometry import polygons_to_label, star_dist
from stardist.nms import non_maximum_suppression
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks import report
from benchmarks.accuracy import FOLDER
from segkit.scoring import Scores, pool, score
from segkit.segmenters.nuclei_net import contrast, looked_at, relative_plane
from segkit.training.design import NucleiNet
from segkit.training.fitting import examples_of, labels_by, loss_of
from segkit.training.pairs import LabelledImage, divided, read_folder
from segkit.training.purposes import FOR_NUCLEI
from segkit.training.samples import Example, labelled_crop

RAYS = 32
#: Rays are said for every second pixel, as StarDist does: the trunk's own resolution.
GRID = 2
#: What is tried on the images that choose: likelihood and, of the depth, separation; or, of the rays, the overlap that is allowed.
THRESHOLDS = {"depth": ((0.4, 0.5, 0.6, 0.7), (0.15, 0.25, 0.35)), "rays": ((0.3, 0.4, 0.5, 0.6), (0.3, 0.4, 0.5))}
EDGE, CROPS, RATE, WARMUP, COOLING, AVERAGING = 160, 8, 2e-3, 50, 0.35, 0.99

Sizes = tuple[float, float]


class RayNet(nn.Module):
    """The trunk of `NucleiNet`, and per two pixels how deep one lies and how far its object reaches in each direction."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = NucleiNet()
        self.trunk.head = nn.Conv2d(self.trunk.head.in_channels, 1 + RAYS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (images, 1 + rays, rows / 2, columns / 2): a logit, and distances in pixels."""
        said = self.trunk.before_head(x)
        return self.trunk.head(said)


@dataclass(frozen=True)
class Design:
    """One way to say where objects are."""

    make: Callable[[], nn.Module]
    #: (depth targets and labels of crops): what the network should say
    targets: Callable[[NDArray[np.float32], NDArray[np.int32]], Tensor]
    #: (said, meant): loss of each crop
    loss: Callable[[Tensor, Tensor], Tensor]
    #: (net, image, thresholds): labels
    labels: Callable[[nn.Module, LabelledImage, Sizes], NDArray[np.int32]]


# Depth


def _depth_targets(targets: NDArray[np.float32], labels: NDArray[np.int32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(targets, -1, 1)))


def _depth_labels(net: nn.Module, image: LabelledImage, asked: Sizes) -> NDArray[np.int32]:
    assert isinstance(net, NucleiNet)
    return labels_by(net, image, threshold=asked[0], separation=asked[1])


# Rays


def _ray_targets(targets: NDArray[np.float32], labels: NDArray[np.int32]) -> Tensor:
    """Return, for every second pixel, the depth as StarDist's likelihood, and how far its object reaches."""
    far = np.stack([star_dist(each.astype(np.uint16), RAYS, grid=(GRID, GRID)) for each in labels])
    depth = targets[:, ::GRID, ::GRID, 1]
    return torch.from_numpy(np.concatenate([depth[:, None], np.moveaxis(far, -1, 1)], axis=1).astype(np.float32))


def _ray_loss(said: Tensor, meant: Tensor) -> Tensor:
    """Return StarDist's loss: cross-entropy of the likelihood, and the distances' error where it is high."""
    likely = nn.functional.binary_cross_entropy_with_logits(said[:, 0], meant[:, 0], reduction="none").mean((1, 2))
    errors = (said[:, 1:] - meant[:, 1:]).abs().mean(1)
    distances = (errors * meant[:, 0]).sum((1, 2)) / (meant[:, 0].sum((1, 2)) + 1)
    return likely + 0.2 * distances


def _ray_labels(net: nn.Module, image: LabelledImage, asked: Sizes) -> NDArray[np.int32]:
    pixels = FOR_NUCLEI.prepare(image.pixels)
    plan = FOR_NUCLEI.plan(pixels)
    if not np.isfinite(plan.rise):
        return np.zeros(pixels.shape, dtype=np.int32)
    lens = plan.scale.lens(pixels.shape, 0, 0)
    shown = contrast(relative_plane(pixels, plan.ground, lens))
    padded = np.pad(shown, [(0, -size % 16) for size in shown.shape])
    with torch.no_grad():
        once, again = (net.eval()(torch.from_numpy(plane.copy())[None, None])[0].numpy() for plane in (padded, padded[::-1]))
    likely = (_likely(once[0]) + _likely(again[0])[::-1]) / 2  # looked at twice, as the other
    rows, columns = (-(-size // GRID) for size in shown.shape)
    far = np.maximum(np.moveaxis(once[1:], 0, -1)[:rows, :columns], 0.5)
    likely = likely[:rows, :columns].copy()
    near, pixel = looked_at(pixels, plan, lens), plan.scale.step / plan.scale.finer
    places = [np.minimum((np.arange(n) * GRID * pixel).astype(int), most - 1) for n, most in zip(likely.shape, near.shape, strict=True)]
    likely[~near[np.ix_(*places)]] = 0
    points, found, rays = non_maximum_suppression(far, likely, (GRID, GRID), prob_thresh=asked[0], nms_thresh=asked[1])
    if not len(points):
        return np.zeros(pixels.shape, dtype=np.int32)
    return np.asarray(polygons_to_label(rays * pixel, points * pixel, pixels.shape, prob=found), dtype=np.int32)


def _likely(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-logits)))


DESIGNS = {"depth": Design(NucleiNet, _depth_targets, loss_of, _depth_labels), "rays": Design(RayNet, _ray_targets, _ray_loss, _ray_labels)}


# Running


def train(design: Design, examples: Sequence[Example], steps: int, kept: Path | None, name: str) -> tuple[nn.Module, float]:
    """Train a network of one design; return its averaged weights, and the seconds that a step took."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net, averaged = design.make(), design.make()
    averaged.load_state_dict(net.state_dict())
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.02)
    state, done, spent = [net, averaged, optimizer], 0, 0.0
    if kept is not None and kept.exists():
        held = torch.load(kept, weights_only=True)
        done, spent = held["done"], held["spent"]
        for each, saved in zip(state, held["state"], strict=True):
            each.load_state_dict(saved)
    for step in tqdm(range(done, steps), initial=done, total=steps, desc=name):
        started = time.process_time()
        draw = np.random.default_rng((0, step))
        crops = [labelled_crop(examples[number], EDGE, draw) for number in draw.integers(len(examples), size=CROPS)]
        shown, targets, labels = (np.stack(arrays) for arrays in zip(*crops, strict=True))
        share = min((step + 1) / WARMUP, 1.0) * min((steps - step) / (COOLING * steps), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * share
        loss = design.loss(net.train()(torch.from_numpy(shown)), design.targets(targets, labels)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        follow(averaged, net, min(AVERAGING, (step + 1) / (step + 10)))
        spent += time.process_time() - started
        if kept is not None and ((step + 1) % 50 == 0 or step + 1 == steps):
            torch.save({"state": [each.state_dict() for each in state], "done": step + 1, "spent": spent}, kept)
    return averaged.eval(), spent / steps


def follow(averaged: nn.Module, net: nn.Module, keep: float) -> None:
    """Let averaged weights follow those that are trained."""
    with torch.no_grad():
        for kept, new in zip(averaged.state_dict().values(), net.state_dict().values(), strict=True):
            if kept.dtype.is_floating_point:
                kept.mul_(keep).add_(new, alpha=1 - keep)
            else:
                kept.copy_(new)


def judged(design: Design, net: nn.Module, images: Sequence[LabelledImage], asked: Sizes) -> Scores:
    """Score a network on images, objects pooled."""
    return pool(score(image.labels, design.labels(net, image, asked)) for image in images)


def compare(name: str, parts: Sequence[Sequence[LabelledImage]], examples: Sequence[Example], given: argparse.Namespace) -> dict[str, Any]:
    """Train one design, choose its thresholds, and judge it."""
    design, (choosing, judging) = DESIGNS[name], parts
    kept = given.kept / f"{name}.pt" if given.kept else None
    net, seconds = train(design, examples, given.steps, kept, name)
    asked = max(itertools.product(*THRESHOLDS[name]), key=lambda sizes: judged(design, net, choosing, sizes).ap_mean)
    found = judged(design, net, judging, asked)
    return {
        "parameters": sum(weight.numel() for weight in net.parameters()),
        "s_per_step": round(seconds, 3),
        "threshold": asked[0],
        "separation" if name == "depth" else "overlap": asked[1],
        **{key: round(value, 4) for key, value in found.as_dict().items()},
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="image and label pairs (default: ../shared/data/dsb2018)")
    parser.add_argument("--steps", type=int, default=1000, help="of training, each of 8 crops (default: 1000)")
    parser.add_argument("--kept", type=Path, help="folder in which a training that is cut off is kept")
    given = parser.parse_args(argv)
    if not given.folder.is_dir():
        print("skipped: no DSB2018 folder")
        return
    images = read_folder(given.folder, kind="fluo", part="tune")
    training, others = divided(images[:20] if given.quick else images, 0.3)
    judging, choosing = divided(others, 0.2)
    given.steps = 10 if given.quick else given.steps
    examples = examples_of(training, "nuclei-net")
    found = {name: compare(name, (choosing, judging), examples, given) for name in DESIGNS}
    parts = f"{len(training)} images to learn from, {len(choosing)} that choose, {len(judging)} that judge"
    print(f"{parts}; {given.steps} steps of {CROPS} crops")
    columns = ("parameters", "s_per_step", "f1_50", "ap_50", "f1_70", "ap_mean", "pq")
    report.show("from scratch, alike", ("design", *columns), [[name, *(values[key] for key in columns)] for name, values in found.items()])
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
