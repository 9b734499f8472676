"""StarDist, where a person has installed it: its network behind the same call as every other segmenter. Not tile-exact."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import ModelFileError
from segkit.kernels.components import number_in_raster_order
from segkit.segmenters.optional import load_package
from segkit.segmenters.parameters import Parameters, parameter
from segkit.segmenters.recipe import LabelArray
from segkit.segmenters.registry import Segmenter


class StardistParameters(Parameters):
    """What StarDist can be told."""

    model: str = parameter("2D_versatile_fluo", "Name of a pretrained StarDist model, or folder of one that was trained.")
    probability: float | None = parameter(
        None, "Objects of a lower score are dropped; leave empty for what the model was tuned to.", ge=0, le=1, step=0.05
    )
    overlap: float | None = parameter(
        None, "Of objects that overlap more, the weaker is dropped; leave empty for what the model was tuned to.", ge=0, le=1, step=0.05
    )
    darkest: float = parameter(1.0, "Percentile of the pixels that becomes 0.", unit="%", ge=0, le=50, step=0.5)
    brightest: float = parameter(99.8, "Percentile of the pixels that becomes 1.", unit="%", ge=50, le=100, step=0.1)


@lru_cache(maxsize=2)
def _network(model: str) -> Any:
    load_package("tensorflow", 'The segmenter "stardist"', "stardist")
    kind = load_package("stardist.models", 'The segmenter "stardist"', "stardist").StarDist2D
    try:
        if Path(model).is_dir():
            return kind(None, name=Path(model).name, basedir=str(Path(model).parent))
        return kind.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f'StarDist\'s model "{model}" cannot be loaded: {error}. Its weights are fetched when the machine is online; or give a folder.'
        ) from error


def _segment(pixels: NDArray[Any], parameters: StardistParameters, pixel_size_um: float | None) -> LabelArray:
    network = _network(parameters.model)
    if network is None:
        raise ModelFileError(f'StarDist has no pretrained model "{parameters.model}", and it is no folder either.')
    low, high = np.percentile(pixels, (parameters.darkest, parameters.brightest))
    if low == high:
        return np.zeros(pixels.shape, dtype=np.int32)
    evened = (pixels.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    found, _ = network.predict_instances(evened, prob_thresh=parameters.probability, nms_thresh=parameters.overlap, verbose=False)
    labels = np.ascontiguousarray(found, dtype=np.int32)
    number_in_raster_order(labels)
    return labels


SEGMENTER = Segmenter(
    name="stardist",
    version="1",
    summary='StarDist\'s network; needs `pip install "segkit[stardist]"`. Not tile-exact: an image must fit the memory.',
    parameters=StardistParameters,
    colour=False,
    function=_segment,
)
