"""A network to train further: read from the ONNX file that it was saved as, and made to fit what it will be shown."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segkit.errors import MissingExtraError, ModelFileError
from segkit.segmenters.network import KINDS, LARGEST, load_network
from segkit.segmenters.optional import read_model_file
from segkit.training.design import NucleiNet
from segkit.training.fitting import FitSettings, examples_of
from segkit.training.pairs import LabelledImage
from segkit.training.purposes import purpose_of
from segkit.training.samples import batch

#: Crops by which the normalisation of each layer is set.
CROPS = 64


def read_network(model: str, images: Sequence[LabelledImage], settings: FitSettings | None = None) -> NucleiNet:
    """Read a network that is to be trained further.

    Parameters
    ----------
    model : str
        An ONNX file that `save_model` wrote; "nuclei-net" or "tissue-net" is the one that segkit carries.
    images : sequence of LabelledImage
        Images that it will be trained on. A saved network holds each layer without its normalisation; that is set anew, so that on
        these images the layers say what they said before.
    settings : FitSettings, optional
        How it will be trained, and for which segmenter. What the network was not shown before weighs nothing at first. The network has
        the widths that it was saved with, whatever these are here: `narrowed` makes it another.

    Raises
    ------
    ModelFileError
        When the file is not such a network.
    MissingExtraError
        When the package `onnx` is not installed.
    """
    settings = settings or FitSettings()
    purpose = purpose_of(settings.segmenter)
    kind = KINDS.get(model, purpose.kind)
    file = str(kind.shipped) if model in KINDS else model
    load_network(file, None, kind)  # checks the card
    weights = _weights(read_model_file(file, LARGEST))
    net = NucleiNet(_widths(weights), purpose.kind.planes)
    _fill(net, weights, file)
    draw = np.random.default_rng((settings.seed, CROPS))
    examples = examples_of(images, settings.segmenter)
    chosen = draw.integers(len(examples), size=CROPS)
    _normalise(net, torch.from_numpy(batch(examples, chosen, settings.edge, draw, purpose)[0]))
    return net


def _weights(content: bytes) -> list[tuple[Tensor, Tensor]]:
    """Return the weights and offsets of the convolutions of an ONNX file, in the order in which they are run."""
    try:
        onnx: Any = import_module("onnx")
        reader: Any = import_module("onnx.numpy_helper")
    except ImportError as error:
        raise MissingExtraError("Training a network further", "train") from error
    graph = onnx.load_from_string(content).graph
    held = {entry.name: torch.from_numpy(reader.to_array(entry).copy()) for entry in graph.initializer}
    return [(held[node.input[1]], held[node.input[2]]) for node in graph.node if node.op_type == "Conv"]


def _widths(weights: Sequence[tuple[Tensor, Tensor]]) -> tuple[int, ...]:
    """Return the channels of each level, as the layers that go down to it have them: the first one, and those that halve."""
    first, *others = (held for held, _ in weights)
    return (first.shape[0], *(held.shape[0] for held in others if held.shape[-1] == 2))


def _fill(net: NucleiNet, weights: Sequence[tuple[Tensor, Tensor]], file: str) -> None:
    """Put weights into a network's convolutions, and their offsets where they are added."""
    places = _convolutions(net)
    if [_size(place.weight) for place, _ in places] != [_size(held) for held, _ in weights]:
        raise ModelFileError(f"{file} is not a network of segkit's design, so it cannot be trained further.")
    with torch.no_grad():
        for (place, norm), (held, offset) in zip(places, weights, strict=True):
            place.weight.zero_()
            place.weight[:, : held.shape[1]] = held[:, : place.weight.shape[1]]
            target = place.bias if norm is None else norm.bias
            target.copy_(offset)


def _size(weight: Tensor) -> tuple[int, ...]:
    """Return what must be alike in two convolutions: not how many planes they are shown, which is made to fit."""
    return (weight.shape[0], *weight.shape[2:])


def _convolutions(net: NucleiNet) -> list[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    """Return the convolutions in the order in which they are run, each with the normalisation that follows it."""
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d | None]] = []

    def noted(module: nn.Module, given: Any, said: Any) -> None:
        if isinstance(module, nn.Conv2d):
            found.append((module, None))
        elif isinstance(module, nn.BatchNorm2d):
            found[-1] = (found[-1][0], module)

    handles = [module.register_forward_hook(noted) for module in net.modules()]
    with torch.no_grad():
        net.eval()(torch.zeros(1, net.stem[0].in_channels, 64, 64))
    for handle in handles:
        handle.remove()
    return found


def _normalise(net: NucleiNet, shown: Tensor) -> None:
    """Set each normalisation to the mean and spread that it meets, and undo it by its own weights: nothing changes in what is said."""

    def met(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
            mean, spread = given[0].mean((0, 2, 3)), given[0].var((0, 2, 3))
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(spread)
            norm.weight.copy_((spread + norm.eps).sqrt())
            norm.bias.add_(mean)

    handles = [module.register_forward_pre_hook(met) for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        net.eval()(shown)
    for handle in handles:
        handle.remove()
