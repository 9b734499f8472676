"""The training of the network: steps on varied crops, a look at the validation images now and then, and a slow end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segkit.errors import TrainingError
from segkit.kernels.components import label_components, number_in_raster_order
from segkit.scoring import Scores, pool, score
from segkit.segmenters.recipe import LabelArray
from segkit.segmenters.sight import foreground_of, split_by_depth
from segkit.training.design import WIDTHS, NucleiNet
from segkit.training.narrowing import narrowed
from segkit.training.pairs import LabelledImage
from segkit.training.purposes import purpose_of
from segkit.training.samples import Example, batch, example_of

#: What of the contact map is taken off the depth.
CONTACT = 0.25


@dataclass(frozen=True)
class FitSettings:
    """How long and how the network is trained."""

    #: the segmenter that is to look through the network
    segmenter: str = "nuclei-net"
    #: steps in all; each is shown `crops` squares of `edge` pixels
    steps: int = 7500
    crops: int = 16
    edge: int = 192
    #: largest step size; it rises over `warmup` steps and falls to nothing over the last part `cooling` of all steps
    rate: float = 2e-3
    warmup: int = 150
    cooling: float = 0.35
    decay: float = 0.02
    #: how much more often larger images are drawn: 0 not, 1 as often as they have more pixels
    by_size: float = 0.0
    #: how slowly the averaged weights, which are what is kept, follow
    averaging: float = 0.997
    #: how often, in steps, the validation images are looked at
    look_every: int = 500
    #: looks without a better validation score after which the cooling begins early
    patience: int = 6
    seed: int = 0
    threads: int = 2
    #: whether most sums are done in half precision (bfloat16), which processors that know it do twice as fast
    halved: bool = True
    #: channels of each level; None: those of the network that is trained further, or `WIDTHS`
    widths: tuple[int, ...] | None = None
    #: how much a teacher's word counts beside the labels, from 0 to 1: only where there is a teacher
    taught: float = 0.5


@dataclass(frozen=True)
class Look:
    """What a look at the validation images saw."""

    step: int
    loss: float
    f1_50: float
    ap_50: float
    f1_70: float
    ap_mean: float


@dataclass
class Fit:
    """A training under way, or done."""

    settings: FitSettings
    net: NucleiNet
    averaged: NucleiNet
    optimizer: torch.optim.Optimizer
    #: a network that knows already, of which it learns
    teacher: NucleiNet | None = None
    step: int = 0
    #: where the cooling begins
    cool_from: int = 0
    #: whether that was moved forward because nothing got better
    early: bool = False
    losses: list[float] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    #: how hard each example has been of late
    hardness: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def last(self) -> int:
        """The step at which the training ends."""
        return min(self.settings.steps, self.cool_from + round(self.settings.cooling * self.settings.steps))


def begin(settings: FitSettings, start: NucleiNet | None = None) -> Fit:
    """Return a training that has not begun, of a new network, or of one that is to be trained further.

    One that is to become narrower learns of the wide one, which knows already.
    """
    torch.manual_seed(settings.seed)
    planes = purpose_of(settings.segmenter).kind.planes
    widths = settings.widths or (WIDTHS if start is None else start.widths)
    net, averaged = NucleiNet(widths, planes), NucleiNet(widths, planes)
    teacher = None
    if start is not None and start.widths != tuple(widths):
        teacher, start = start.eval(), narrowed(start, widths)
    if start is not None:
        net.load_state_dict(start.state_dict())
    averaged.load_state_dict(net.state_dict())
    net.to(memory_format=torch.channels_last)
    if teacher is not None:
        teacher.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=settings.decay)
    cool_from = settings.steps - round(settings.cooling * settings.steps)
    return Fit(replace(settings, widths=tuple(widths)), net, averaged.eval(), optimizer, teacher, cool_from=cool_from)


def fit(
    training: Sequence[LabelledImage],
    validation: Sequence[LabelledImage],
    settings: FitSettings | None = None,
    *,
    checkpoint: Path | None = None,
    start: NucleiNet | None = None,
    progress: Callable[[Fit], None] | None = None,
) -> Fit:
    """Train a network.

    Parameters
    ----------
    training, validation : sequence of LabelledImage
        No image may be in both.
    settings : FitSettings, optional
    checkpoint : Path, optional
        File that holds the state every hundred steps, and from which a training that was cut off goes on.
    start : NucleiNet, optional
        A network to train further instead of a new one. Where `settings.widths` are others, its most important channels are, and it
        is their teacher: what they are to say is its word and that of the labels.
    progress : callable, optional
        Called after every step.

    Raises
    ------
    TrainingError
        When an image is in both parts, or nothing is seen in any image.
    """
    settings = settings or FitSettings()
    apart(training, validation)
    examples = examples_of(training, settings.segmenter)
    torch.set_num_threads(settings.threads)
    state = begin(settings, start)
    if checkpoint is not None and checkpoint.exists():
        load_checkpoint(state, checkpoint)
    while state.step < state.last:
        _advance(state, examples)
        if state.step % settings.look_every == 0 or state.step == state.last:
            state.looks.append(look(state, validation))
            _cool_early(state)
        if checkpoint is not None and (state.step % 100 == 0 or state.step == state.last):
            save_checkpoint(state, checkpoint)
        if progress is not None:
            progress(state)
    return state


def examples_of(images: Sequence[LabelledImage], segmenter: str) -> list[Example]:
    """Prepare images in which there is something to see.

    Raises
    ------
    TrainingError
        When that is none of them.
    """
    purpose = purpose_of(segmenter)
    found = [example for image in images if (example := example_of(image, purpose)) is not None and len(example.places)]
    if not found:
        raise TrainingError("No image to train on has objects that stand out from its background.")
    return found


def apart(training: Sequence[LabelledImage], validation: Sequence[LabelledImage]) -> None:
    """Refuse images that are in both parts, by name or by pixels."""
    seen = {image.name for image in training} | {image.pixels.tobytes() for image in training}
    both = [image.name for image in validation if image.name in seen or image.pixels.tobytes() in seen]
    if both:
        raise TrainingError(f"{both[0]} is in both parts: scores of an image that was trained on say nothing. Take it out of one.")


def _advance(state: Fit, examples: Sequence[Example]) -> None:
    """Take one step. What is drawn depends on the seed and the step alone, so a training that was cut off goes on the same way."""
    settings, started = state.settings, time.perf_counter()
    draw = np.random.default_rng((settings.seed, state.step))
    chosen = _chosen(state, examples, draw)
    shown, meant = (torch.from_numpy(array) for array in batch(examples, chosen, settings.edge, draw, purpose_of(settings.segmenter)))
    if state.teacher is not None:
        meant = torch.lerp(meant, _word_of(state.teacher, shown), settings.taught)
    for group in state.optimizer.param_groups:
        group["lr"] = settings.rate * _share(state)
    state.net.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.halved):
        said = state.net(shown.to(memory_format=torch.channels_last))
    losses = loss_of(said.float(), meant)
    state.optimizer.zero_grad(set_to_none=True)
    losses.mean().backward()
    nn.utils.clip_grad_norm_(state.net.parameters(), 1.0)
    state.optimizer.step()
    _average(state)
    values = losses.detach().tolist()
    for number, value in zip(chosen, values, strict=True):
        name = examples[number].name
        state.hardness[name] = 0.7 * state.hardness.get(name, value) + 0.3 * value
    state.losses.append(float(np.mean(values)))
    state.step += 1
    state.seconds += time.perf_counter() - started


def _word_of(teacher: NucleiNet, shown: Tensor) -> Tensor:
    """Return what a network says of crops, in the form of what is meant: foreground, depth and contact, each from 0 to 1."""
    with torch.no_grad():
        said = teacher(shown)
    return torch.stack([said[:, 0].sigmoid(), said[:, 1].clamp(0, 1), said[:, 2].sigmoid()], dim=1)


def _chosen(state: Fit, examples: Sequence[Example], draw: np.random.Generator) -> NDArray[np.int64]:
    """Choose examples: half of them any, half those that have been hard of late."""
    known = np.array([state.hardness.get(example.name, np.nan) for example in examples])
    hard = np.where(np.isnan(known), np.nanmean(known) if not np.isnan(known).all() else 1.0, known)
    weights = np.clip(hard, 0, 3 * np.median(hard))
    count = state.settings.crops // 2
    some = _drawn(examples, state.settings, count, draw)
    return np.concatenate([some, draw.choice(len(examples), size=count, p=weights / weights.sum())])


def _drawn(examples: Sequence[Example], settings: FitSettings, hard: int, draw: np.random.Generator) -> NDArray[np.int64]:
    if not settings.by_size:
        return draw.integers(len(examples), size=settings.crops - hard)
    sizes = np.array([example.labels.size for example in examples], dtype=np.float64) ** settings.by_size
    return draw.choice(len(examples), size=settings.crops - hard, p=sizes / sizes.sum())


def _share(state: Fit) -> float:
    """Return which part of the largest step size a step takes."""
    settings = state.settings
    cooled = 1 - max(state.step - state.cool_from, 0) / max(state.last - state.cool_from, 1)
    return min((state.step + 1) / settings.warmup, 1.0) * max(cooled, 0.002)


def _average(state: Fit) -> None:
    keep = min(state.settings.averaging, (state.step + 1) / (state.step + 10))
    with torch.no_grad():
        for kept, new in zip(state.averaged.state_dict().values(), state.net.state_dict().values(), strict=True):
            if kept.dtype.is_floating_point:
                kept.mul_(keep).add_(new, alpha=1 - keep)
            else:
                kept.copy_(new)


def loss_of(said: Tensor, meant: Tensor) -> Tensor:
    """Return the loss of each crop: foreground and contacts by cross-entropy and overlap, depth by its distance."""
    nucleus, depth, contact = meant.unbind(1)
    crossed = nn.functional.binary_cross_entropy_with_logits
    foreground = (crossed(said[:, 0], nucleus, reduction="none") * (1 + 2 * contact)).mean((1, 2))
    likely = said[:, 0].sigmoid()
    overlap = 1 - (2 * (likely * nucleus).sum((1, 2)) + 50) / ((likely + nucleus).sum((1, 2)) + 50)
    weight = nucleus * (1 + 2 * contact) + 0.1
    depths = ((said[:, 1] - depth).abs() * weight).sum((1, 2)) / (weight.sum((1, 2)) + 100)
    touching = (crossed(said[:, 2], contact, reduction="none") * (1 + 4 * contact)).mean((1, 2))
    return foreground + 0.5 * overlap + 2 * depths + touching


def _cool_early(state: Fit) -> None:
    """Begin the cooling when the validation images have not been segmented better for a while."""
    values = [look.ap_mean for look in state.looks]
    if state.step < state.cool_from and len(values) - 1 - int(np.argmax(values)) >= state.settings.patience:
        state.cool_from, state.early = state.step, True


# Looking


class Shown(nn.Module):
    """The network as it is used: foreground's likelihood, and depth less contact."""

    def __init__(self, net: NucleiNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return (images, 2, rows, columns)."""
        said = self.net(x)
        likely, depth, contact = said[:, 0:1].sigmoid(), said[:, 1:2], said[:, 2:3].sigmoid()
        return torch.cat([likely, depth.clamp(0, 1) - CONTACT * contact], dim=1)


def labels_by(net: NucleiNet, image: LabelledImage, segmenter: str = "nuclei-net", **told: Any) -> LabelArray:
    """Segment an image by a network that is being trained, as the segmenter will when it is `told` that."""
    purpose = purpose_of(segmenter)
    pixels = purpose.prepare(image.pixels)
    plan = purpose.plan(pixels, **told)
    shown = Shown(net.eval())

    def run(planes: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(shown(torch.from_numpy(planes)[None])[0].numpy())

    seen = purpose.sight(run, pixels, plan, 0, 0)
    components, _ = label_components(foreground_of(seen, plan.ground), 2)
    labels = split_by_depth(seen, components, plan.ground, 0, 0)
    number_in_raster_order(labels)
    return labels


def look(state: Fit, validation: Sequence[LabelledImage]) -> Look:
    """Segment the validation images by the averaged network, and score them."""
    pooled: Scores = pool(score(image.labels, labels_by(state.averaged, image, state.settings.segmenter)) for image in validation)
    recent = state.losses[-state.settings.look_every :]
    return Look(state.step, float(np.mean(recent)), pooled.at(0.5).f1, pooled.at(0.5).ap, pooled.at(0.7).f1, pooled.ap_mean)


# Keeping


def save_checkpoint(state: Fit, path: Path) -> None:
    """Write the whole state, whole or not at all."""
    held: dict[str, Any] = {
        "net": state.net.state_dict(),
        "averaged": state.averaged.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "numbers": {
            "step": state.step,
            "cool_from": state.cool_from,
            "early": state.early,
            "seconds": state.seconds,
            "losses": state.losses,
        },
        "looks": [asdict(look) for look in state.looks],
        "hardness": state.hardness,
    }
    beside = path.with_suffix(".part")
    torch.save(held, beside)
    os.replace(beside, path)


def load_checkpoint(state: Fit, path: Path) -> None:
    """Go on from a file that `save_checkpoint` wrote."""
    held = torch.load(path, weights_only=True)
    state.net.load_state_dict(held["net"])
    state.averaged.load_state_dict(held["averaged"])
    state.optimizer.load_state_dict(held["optimizer"])
    numbers = held["numbers"]
    state.step, state.seconds, state.losses = numbers["step"], numbers["seconds"], numbers["losses"]
    state.early = numbers["early"]
    if state.early:
        state.cool_from = numbers["cool_from"]
    state.looks = [Look(**entry) for entry in held["looks"]]
    state.hardness = held["hardness"]
