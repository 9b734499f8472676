"""The peer of `engine.py` for networks: the same layers, run by PyTorch in one thread."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segkit.segmenters.network import KINDS, load_network
from segkit.training.fitting import FitSettings, Shown
from segkit.training.pairs import LabelledImage
from segkit.training.starting import read_network


def clocks_of(name: str, image: NDArray[Any], labels: NDArray[np.int32], rounds: int) -> list[dict[str, float]]:
    """Run a shipped network over a megapixel, in turns by onnxruntime and by PyTorch; seconds of each, the first turn left out.

    Parameters
    ----------
    name : str
        Its segmenter.
    image, labels : array
        An image with objects, by which PyTorch's normalisations are set.
    rounds : int
    """
    torch.set_num_threads(1)
    net = read_network(name, [LabelledImage("made", image, labels)], FitSettings(segmenter=name))
    layers = Shown(net.eval()).to(memory_format=torch.channels_last)
    plane = np.random.default_rng(0).random((KINDS[name].planes, 1024, 1024), dtype=np.float32)
    shown = torch.from_numpy(plane)[None].to(memory_format=torch.channels_last)
    network = load_network(kind=KINDS[name])
    clocks: list[dict[str, float]] = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            began = time.perf_counter()
            said = network.run(plane)
            between = time.perf_counter()
            also = layers(shown)
            clocks.append({"onnxruntime": between - began, "PyTorch": time.perf_counter() - between})
    np.testing.assert_allclose(said, also[0].numpy(), atol=1e-3, err_msg="it is not the same network")
    return clocks[1:]
