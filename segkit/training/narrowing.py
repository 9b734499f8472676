"""A network with fewer channels, cut out of a wider one: what is left is trained further, and is faster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segkit.errors import TrainingError
from segkit.training.design import NucleiNet, Residual


@dataclass(frozen=True)
class Link:
    """A convolution, the normalisation that follows it, and which channels it takes and gives: sets of the same name are one."""

    convolution: nn.Conv2d
    norm: nn.BatchNorm2d | None
    takes: str
    gives: str


def links_of(net: NucleiNet) -> list[Link]:
    """Return every convolution of a network, level by level: those on the way down first, then those on the way up."""
    found = [_link(net.stem, "shown", "level 0")]
    for level, (down, block) in enumerate(zip(net.down, net.descent, strict=True), start=1):
        found += [_link(down, f"level {level - 1}", f"level {level}"), *_of_block(block, f"level {level}", f"descent {level}")]
    for level, (up, block) in enumerate(zip(net.up, net.ascent, strict=True)):
        found += [Link(up, None, f"level {level + 1}", f"level {level}"), *_of_block(block, f"level {level}", f"ascent {level}")]
    return [*found, Link(net.head, None, "ascent 0", "maps")]


def _of_block(block: nn.Module, outer: str, inner: str) -> list[Link]:
    if isinstance(block, Residual):
        return [_link(block.first, outer, inner), _link(block.second, inner, outer)]
    return [_link(block, outer, inner)]


def _link(layers: nn.Module, takes: str, gives: str) -> Link:
    convolution, norm = layers[0], layers[1]
    return Link(convolution, norm, takes, gives)


def narrowed(net: NucleiNet, widths: Sequence[int]) -> NucleiNet:
    """Return a network of fewer channels that holds those of a wider one which matter most.

    A channel matters as much as it varies, times how much of it the next layers take. Its normalisations must be those of images, as
    `read_network` sets them. What the network says is less exact than before, and comes back by training further.

    Raises
    ------
    TrainingError
        When more channels are asked for than there are.
    """
    wide, small = links_of(net), links_of(narrow := NucleiNet(widths, net.stem[0].in_channels))
    sizes = {link.gives: link.convolution.out_channels for link in small}
    if any(link.convolution.out_channels < sizes[link.gives] for link in wide):
        raise TrainingError(f"A network cannot be narrowed to {tuple(widths)} channels: it has fewer.")
    gives, takes = defaultdict[str, Tensor](lambda: torch.zeros(())), defaultdict[str, Tensor](lambda: torch.zeros(()))
    with torch.no_grad():
        for link in wide:
            weight = link.convolution.weight
            gives[link.gives] = gives[link.gives] + (weight.flatten(1).norm(dim=1) if link.norm is None else link.norm.weight.abs())
            takes[link.takes] = takes[link.takes] + weight.transpose(0, 1).flatten(1).square().sum(1)
        kept = {name: _largest(varies * takes[name].sqrt() if name in takes else varies, sizes[name]) for name, varies in gives.items()}
        kept["shown"] = torch.arange(net.stem[0].in_channels)
        for link, new in zip(wide, small, strict=True):
            out = kept[link.gives]
            new.convolution.weight.copy_(link.convolution.weight[out][:, kept[link.takes]])
            if link.convolution.bias is not None and new.convolution.bias is not None:
                new.convolution.bias.copy_(link.convolution.bias[out])
            if link.norm is not None and new.norm is not None:
                for name, value in new.norm.state_dict().items():
                    held = link.norm.state_dict()[name]
                    value.copy_(held[out] if held.ndim else held)
    return narrow


def _largest(values: Tensor, count: int) -> Tensor:
    return values.topk(count).indices.sort().values
