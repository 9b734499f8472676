"""The network: a small U-Net that halves the image at once and gives full resolution back from its last layer's channels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from segkit.errors import MissingExtraError

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtraError("Training a network", "train") from error

#: Channels at a half, a quarter, an eighth and a sixteenth of the resolution.
WIDTHS = (32, 48, 64, 96)
#: What comes out: foreground, depth, contact.
MAPS = 3


def _convolution(before: int, after: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    padding = (size - stride) // 2 if stride > 1 else size // 2
    return nn.Sequential(nn.Conv2d(before, after, size, stride, padding, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Two convolutions whose sum with the input goes on."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return torch.relu(x + self.second(self.first(x)))


class NucleiNet(nn.Module):
    """Brightness or stains in, foreground, depth and contact out, all at the image's own resolution.

    Takes (images, planes, rows, columns) float32, rows and columns multiples of 16, and gives (images, 3, rows, columns): foreground and
    contact as logits, depth from 0 to 1.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, planes: int = 1) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.stem = _convolution(planes, widths[0], 6, 2)
        self.down = nn.ModuleList(_convolution(before, after, 2, 2) for before, after in itertools.pairwise(widths))
        self.descent = nn.ModuleList(Residual(width) for width in widths[1:])
        self.up = nn.ModuleList(nn.Conv2d(after, before, 1) for before, after in itertools.pairwise(widths))
        self.ascent = nn.ModuleList([_convolution(widths[0], widths[0]), *(Residual(width) for width in widths[1:-1])])
        self.head = nn.Conv2d(widths[0], 4 * MAPS, 1)

    def before_head(self, x: Tensor) -> Tensor:
        """Return what the maps are made of: (images, channels, rows / 2, columns / 2)."""
        x = self.stem(x)
        kept = []
        for down, block in zip(self.down, self.descent, strict=True):
            kept.append(x)
            x = block(down(x))
        for level in reversed(range(len(self.up))):
            raised = nn.functional.interpolate(self.up[level](x), scale_factor=2.0, mode="nearest")
            x = self.ascent[level](torch.relu(raised + kept[level]))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return the three maps."""
        return nn.functional.pixel_shuffle(self.head(self.before_head(x)), 2)
