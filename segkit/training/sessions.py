"""One training from images to a file, and its report: curves, scores, and the images it does worst on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries
from tqdm.auto import tqdm

from segkit.scoring import Scores, pool, score
from segkit.segmenters.recipe import LabelArray
from segkit.training.design import NucleiNet
from segkit.training.fitting import Fit, FitSettings, apart, fit, labels_by
from segkit.training.pairs import LabelledImage, divided
from segkit.training.saving import save_model
from segkit.training.starting import read_network

#: The figures of a report, in this order.
KEYS = ("f1_50", "ap_50", "f1_70", "ap_mean", "pq")


@dataclass(frozen=True, eq=False)
class Judged:
    """What a network made of one image."""

    image: LabelledImage
    labels: LabelArray
    scores: Scores


@dataclass(frozen=True, eq=False)
class Trained:
    """A training that is done."""

    path: Path
    state: Fit
    #: by the name of their part: "validation", and "held back" where such images were given
    judged: dict[str, list[Judged]]

    @property
    def table(self) -> pd.DataFrame:
        """The scores of each part, one row each; objects are pooled over images."""
        rows = {part: pool(each.scores for each in held).as_dict() for part, held in self.judged.items()}
        return pd.DataFrame.from_dict(rows, orient="index")[list(KEYS)].round(4)

    def curves(self) -> Figure:
        """Draw the loss of every step, and the scores of the validation images."""
        figure = Figure(figsize=(9, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        losses = pd.Series(self.state.losses)
        left.plot(losses.rolling(50, min_periods=1).mean())
        left.set(xlabel="step", ylabel="loss, mean of 50 steps", yscale="log")
        looks = pd.DataFrame([asdict(look) for look in self.state.looks]).set_index("step")
        looks[["f1_50", "ap_50", "f1_70", "ap_mean"]].plot(ax=right, marker=".")
        right.set(xlabel="step", ylabel="validation images")
        return figure

    def worst(self, count: int = 6, part: str | None = None) -> Figure:
        """Draw the images with the lowest F1: outlined by hand in green, by the network in magenta."""
        held = sorted(self.judged[part or next(reversed(self.judged))], key=lambda each: (each.scores.at(0.5).f1, each.scores.ap_mean))
        across = min(count, 3)
        figure = Figure(figsize=(4 * across, 4.3 * -(-min(count, len(held)) // across)), layout="constrained")
        for number, each in enumerate(held[:count], start=1):
            axes = figure.add_subplot(-(-min(count, len(held)) // across), across, number)
            axes.imshow(outlined(each))
            axes.set_title(
                f"{each.image.name[:16]}\nF1 {each.scores.at(0.5).f1:.2f}, {each.scores.found} of {each.scores.truth}", fontsize=9
            )
            axes.set_axis_off()
        return figure


def outlined(judged: Judged) -> NDArray[np.uint8]:
    """Draw an image with the outlines of both: (rows, columns, 3) uint8."""
    pixels = judged.image.pixels if judged.image.pixels.ndim == 2 else judged.image.pixels.mean(axis=-1)
    low, high = np.percentile(pixels, (0.5, 99.8))
    gray = np.clip((pixels - low) * (255 / max(high - low, 1)), 0, 255).astype(np.uint8)
    out = np.stack([gray] * 3, axis=-1)
    truth, ours = find_boundaries(judged.image.labels), find_boundaries(judged.labels)
    out[truth], out[ours], out[truth & ours] = (0, 220, 80), (255, 60, 255), (255, 255, 255)
    return out


def judge(net: NucleiNet, images: Sequence[LabelledImage], segmenter: str = "nuclei-net") -> list[Judged]:
    """Segment images by a network as its segmenter will, and score them."""
    found = [(image, labels_by(net, image, segmenter)) for image in images]
    return [Judged(image, labels, score(image.labels, labels)) for image, labels in found]


def train_network(
    images: Sequence[LabelledImage],
    target: Path | str,
    *,
    data: str,
    licence: str,
    held_back: Sequence[LabelledImage] = (),
    share: float = 0.12,
    settings: FitSettings | None = None,
    checkpoint: Path | str | None = None,
    start: NucleiNet | str | None = None,
) -> Trained:
    """Train a network on images, save it with its card, and judge it.

    Parameters
    ----------
    images : sequence of LabelledImage
        A part of them, `share`, is not trained on: it decides when to stop.
    target : Path or str
        NAME.onnx; `segkit.segment(image, settings.segmenter, model=target)` uses it.
    data, licence : str
        Where the images come from, and under which licence: for the card.
    held_back : sequence of LabelledImage
        Images that are only judged at the end.
    share : float
    settings : FitSettings, optional
    checkpoint : Path or str, optional
        File from which a training that was cut off goes on.
    start : NucleiNet or str, optional
        A network to train further; or its ONNX file, or "nuclei-net" or "tissue-net" for the one that segkit carries.

    Raises
    ------
    TrainingError
        When an image is in two parts, or there is nothing to learn from.
    MissingExtraError
        On import of this module, without PyTorch.
    """
    settings = settings or FitSettings()
    training, validation = divided(images, share)
    apart([*training, *validation], held_back)
    begun = read_network(start, training, settings) if isinstance(start, str) else start
    with tqdm(total=settings.steps, desc="training", unit="step") as bar:

        def moved(state: Fit) -> None:
            bar.n = state.step
            shown: dict[str, Any] = {"loss": f"{np.mean(state.losses[-50:]):.3f}"}
            if state.looks:
                shown["F1"] = f"{state.looks[-1].f1_50:.3f}"
            bar.set_postfix(shown)

        state = fit(training, validation, settings, checkpoint=Path(checkpoint) if checkpoint else None, start=begun, progress=moved)
    parts = {"validation": validation, **({"held back": held_back} if held_back else {})}
    judged = {part: judge(state.averaged, held, settings.segmenter) for part, held in parts.items()}
    scores = {part: pool(each.scores for each in held) for part, held in judged.items()}
    notes = {"trained_further": start} if isinstance(start, str) else {}
    path = save_model(state, target, training=training, validation=validation, data=data, licence=licence, scores=scores, notes=notes)
    return Trained(path, state, judged)
