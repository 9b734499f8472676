"""Any instance-segmentation model in an ONNX file, run by onnxruntime. Not tile-exact.

The model takes one image: (rows, columns), with or without axes of batch and channels (1, or 3 that get the same gray),
channels first or last. Sizes may be fixed, the image is then resized. What comes out may be

- labels: (rows, columns) integers, 0 on background;
- masks: (objects, rows, columns), and (objects,) scores; stronger objects keep the pixels that overlap;
- probability: (1, rows, columns) of foreground; (2, ...) of foreground and depth within the object, on any scale;
  (3, ...) of background, inside and border.

Which of these it is follows from type and shape, or is told by `output`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from segkit.errors import ModelFileError
from segkit.kernels.components import label_components, number_in_raster_order
from segkit.kernels.persistence import split_by_persistence
from segkit.segmenters.optional import file_hash, read_model_file, with_model_hash
from segkit.segmenters.parameters import Parameters, parameter
from segkit.segmenters.recipe import LabelArray
from segkit.segmenters.registry import Segmenter

#: Element types that an image can be handed over in.
_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(uint8)": np.uint8, "tensor(uint16)": np.uint16}
#: Images whose size the model leaves open are padded to a multiple of this, which networks that halve their input need.
_MULTIPLE = 32


class OnnxParameters(Parameters):
    """What the runner of ONNX models can be told."""

    model: str = parameter("", "Path or URL of the .onnx file.")
    model_hash: str | None = parameter(None, "Content hash of the file; filled in from it, so that a run remembers which model it used.")
    output: Literal["auto", "labels", "masks", "probability"] = parameter("auto", "What the model gives; auto sees it from type and shape.")
    scale: Literal["percentile", "range", "none"] = parameter(
        "percentile", "How brightness is handed over: 1st to 99.8th percentile as 0 to 1, the range of its type as 0 to 1, or as it is."
    )
    threshold: float = parameter(0.5, "Pixels, and objects of masks, of a lower score are dropped.", ge=0, le=1, step=0.05)
    separation: float = parameter(1.0, "How far objects must stand out from the neck between them to be split.", unit="px", ge=0, le=1000)
    min_area: int = parameter(15, "Objects with fewer pixels are dropped.", unit="px", ge=0, le=10_000_000, step=1)

    @model_validator(mode="before")
    @classmethod
    def _name_the_model(cls, values: Any) -> Any:
        return with_model_hash(values)


@dataclass(frozen=True, eq=False)
class _Network:
    """A checked model, ready to run."""

    session: Any
    name: str
    dtype: Any
    #: axes of the input, such as "NCYX"
    axes: str
    #: 1 or 3
    channels: int
    #: rows and columns, None where any will do
    size: tuple[int | None, int | None]


@lru_cache(maxsize=4)
def _network(uri: str, content_hash: str | None) -> _Network:
    runtime = import_module("onnxruntime")
    if not uri:
        raise ModelFileError("Give the ONNX file as model=PATH.")
    content = read_model_file(uri)
    if content_hash and file_hash(content) != content_hash:
        raise ModelFileError(f"{uri} is not the model that was asked for: it changed since. Its hash is {file_hash(content)}.")
    session = _open(runtime, content, uri)
    return _checked(session, uri)


def _open(runtime: Any, content: bytes, uri: str) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelFileError(f"{uri} is not an ONNX model that can be run: {str(error).strip() or type(error).__name__}") from error


def _checked(session: Any, uri: str) -> _Network:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(f"{entry.name} {entry.shape}" for entry in inputs)
        raise ModelFileError(f"{uri} takes {len(inputs)} inputs ({names}), and a segmenter has one image to give.")
    (entry,) = inputs
    if entry.type not in _TYPES:
        raise ModelFileError(f"{uri} takes {entry.type}, and an image is one of {', '.join(_TYPES)}.")
    shape = [size if isinstance(size, int) and size > 0 else None for size in entry.shape]
    axes = _axes(shape)
    if axes is None:
        raise ModelFileError(
            f"{uri} takes an input of the shape {entry.shape}, which is no image with 1 or 3 channels, alone in its batch."
        )
    size = (shape[axes.index("Y")], shape[axes.index("X")])
    channels = shape[axes.index("C")] if "C" in axes else 1
    return _Network(session, entry.name, _TYPES[entry.type], axes, channels or 1, size)


def _axes(shape: list[int | None]) -> str | None:
    """Tell the axes of an input from its shape; None when it is no image."""
    first = {2: "YX", 3: "CYX", 4: "NCYX"}.get(len(shape))
    last = {3: "YXC", 4: "NYXC"}.get(len(shape))
    for axes, wanted in ((first, (1, 3)), (last, (1, 3)), (first, (None,))):
        if axes is None or ("N" in axes and shape[0] not in (1, None)):
            continue
        if "C" not in axes or shape[axes.index("C")] in wanted:
            return axes
    return None


def _segment(pixels: NDArray[Any], parameters: OnnxParameters, pixel_size_um: float | None) -> LabelArray:
    network = _network(parameters.model, parameters.model_hash)
    fitted = _fitted(_scaled(pixels, parameters.scale), network)
    outputs = [np.asarray(output) for output in network.session.run(None, {network.name: _arranged(fitted, network)})]
    labels = _to_labels(outputs, parameters, fitted.shape)
    labels = _back(labels, pixels.shape, network)
    number_in_raster_order(labels)
    return _large_enough(labels, parameters.min_area)


def _scaled(pixels: NDArray[Any], scale: str) -> NDArray[np.float32]:
    low, high = 0.0, 1.0
    if scale == "percentile":
        low, high = np.percentile(pixels, (1, 99.8))
    elif scale == "range" and pixels.dtype.kind == "u":
        high = float(np.iinfo(pixels.dtype).max)
    return (pixels.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-12))


def _fitted(plane: NDArray[np.float32], network: _Network) -> NDArray[np.float32]:
    rows, columns = network.size
    if rows or columns:
        size = (columns or plane.shape[1], rows or plane.shape[0])
        return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR))
    more = [(0, -extent % _MULTIPLE) for extent in plane.shape]
    return np.pad(plane, more, mode="edge")


def _arranged(plane: NDArray[np.float32], network: _Network) -> NDArray[Any]:
    channels = np.stack([plane] * network.channels)
    if network.axes.endswith("C"):
        channels = np.moveaxis(channels, 0, -1)
    elif "C" not in network.axes:
        channels = channels[0]
    if network.dtype in (np.uint8, np.uint16):
        channels = np.clip(np.rint(channels), 0, np.iinfo(network.dtype).max)
    return np.ascontiguousarray((channels[None] if network.axes[0] == "N" else channels).astype(network.dtype))


def _to_labels(outputs: list[NDArray[Any]], parameters: OnnxParameters, shape: tuple[int, ...]) -> LabelArray:
    maps = [output for output in outputs if _is_map(output, shape)]
    if not maps:
        said = ", ".join(str(output.shape) for output in outputs)
        raise ModelFileError(f"The model gives {said} for an image of {shape}: none of these is an image of that size.")
    scores = next((output.reshape(-1) for output in outputs if output.dtype.kind == "f" and output.squeeze().ndim <= 1), None)
    values = _without_batch(maps[0], shape)
    kind = parameters.output if parameters.output != "auto" else _kind(values, scores)
    if kind == "labels":
        return np.ascontiguousarray(np.rint(values.reshape(-1, *shape)[0]), dtype=np.int32)
    if kind == "masks":
        return _paint(values.reshape(-1, *shape), scores, parameters.threshold)
    return _from_probability(_channels_first(values, shape), parameters)


def _is_map(output: NDArray[Any], shape: tuple[int, ...]) -> bool:
    return output.size == 0 or output.shape[-2:] == shape or output.shape[-3:-1] == shape


def _without_batch(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    return values[0] if values.ndim == 4 and values.shape[0] == 1 and values.size else values


def _channels_first(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if values.ndim == 3 and values.shape[-2:] != shape:
        values = np.moveaxis(values, -1, 0)
    return np.ascontiguousarray(values.reshape(-1, *shape), dtype=np.float32)


def _kind(values: NDArray[Any], scores: NDArray[Any] | None) -> str:
    if scores is not None or values.size == 0:
        return "masks"
    return "labels" if values.dtype.kind in "iu" else "probability"


def _paint(masks: NDArray[Any], scores: NDArray[Any] | None, threshold: float) -> LabelArray:
    """Draw the objects, the strongest on top."""
    strength = scores if scores is not None else np.ones(len(masks))
    if len(strength) != len(masks):
        raise ModelFileError(f"The model gives {len(masks)} masks and {len(strength)} scores.")
    labels = np.zeros(masks.shape[1:], dtype=np.int32)
    for number in np.argsort(strength, kind="stable"):
        if strength[number] >= threshold:
            labels[masks[number] > 0.5] = number + 1
    return labels


def _from_probability(maps: NDArray[np.float32], parameters: OnnxParameters) -> LabelArray:
    if len(maps) > 3:
        raise ModelFileError(f"The model gives {len(maps)} maps, and of probabilities there are 1, 2 or 3.")
    inside, weight, rise = 0.5, 0.0, parameters.separation
    foreground, evidence = maps[0], np.ones_like(maps[0])
    if len(maps) == 2:
        # Depth replaces distance: the split follows the model's own map, in parts of its largest value.
        inside, weight, rise = float("inf"), 1.0, 0.05 * parameters.separation
        evidence = maps[1] / max(float(maps[1].max()), 1e-6)
    elif len(maps) == 3:
        foreground, evidence, weight = 1 - maps[0], maps[1] - maps[2], 2.0
    components, _ = label_components(foreground > parameters.threshold, 2)
    walls = np.ones(4, dtype=np.bool_)
    return split_by_persistence(
        components, np.ascontiguousarray(evidence), walls, inside=inside, weight=weight, rise=rise, smallest=parameters.min_area
    )


def _back(labels: LabelArray, shape: tuple[int, ...], network: _Network) -> LabelArray:
    if any(network.size):
        scaled = cv2.resize(labels, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
        return np.ascontiguousarray(scaled, dtype=np.int32)
    return np.ascontiguousarray(labels[: shape[0], : shape[1]])


def _large_enough(labels: LabelArray, smallest: int) -> LabelArray:
    areas = np.bincount(labels.reshape(-1))
    kept = areas >= max(smallest, 1)
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)[labels]


SEGMENTER = Segmenter(
    name="onnx",
    version="1",
    summary="Any instance-segmentation model in an ONNX file. Not tile-exact: it must fit the memory.",
    parameters=OnnxParameters,
    colour=False,
    function=_segment,
)
