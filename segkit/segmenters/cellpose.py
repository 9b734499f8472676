"""Cellpose, where a person has installed it: its network behind the same call as every other segmenter. Not tile-exact."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import ModelFileError
from segkit.kernels.components import number_in_raster_order
from segkit.segmenters.optional import load_package
from segkit.segmenters.parameters import SizedParameters, parameter
from segkit.segmenters.recipe import LabelArray
from segkit.segmenters.registry import Segmenter


class CellposeParameters(SizedParameters):
    """What Cellpose can be told."""

    model: str = parameter("cpsam", "Name of a Cellpose model, or path of one that was trained.")
    cell_probability: float = parameter(0.0, "Pixels of a lower score are background; less finds more.", ge=-6, le=6, step=0.5)
    flow_error: float = parameter(0.4, "Objects whose flows agree less are dropped; more keeps more, 0 keeps all.", ge=0, le=3, step=0.1)
    min_area: int = parameter(15, "Objects with fewer pixels are dropped.", unit="px", ge=0, le=10_000_000, step=1)
    gpu: bool = parameter(False, "Whether to use a graphics card.")


@lru_cache(maxsize=2)
def _network(model: str, gpu: bool) -> Any:
    models = load_package("cellpose.models", 'The segmenter "cellpose"', "cellpose")
    try:
        return models.CellposeModel(gpu=gpu, pretrained_model=model)
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f'Cellpose\'s model "{model}" cannot be loaded: {error}. Its weights are fetched when the machine is online; or give a path.'
        ) from error


def _segment(pixels: NDArray[Any], parameters: CellposeParameters, pixel_size_um: float | None) -> LabelArray:
    diameter = parameters.diameter_px(pixel_size_um)
    network = _network(parameters.model, parameters.gpu)
    if pixels.min() == pixels.max():
        return np.zeros(pixels.shape, dtype=np.int32)
    masks = network.eval(
        pixels,
        diameter=diameter,
        cellprob_threshold=parameters.cell_probability,
        flow_threshold=parameters.flow_error,
        min_size=parameters.min_area,
    )[0]
    labels = np.ascontiguousarray(masks, dtype=np.int32)
    number_in_raster_order(labels)
    return labels


SEGMENTER = Segmenter(
    name="cellpose",
    version="1",
    summary='Cellpose\'s network; needs `pip install "segkit[cellpose]"`. Not tile-exact: an image must fit the memory.',
    parameters=CellposeParameters,
    colour=False,
    function=_segment,
)
