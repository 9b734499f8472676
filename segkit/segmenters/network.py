"""Networks that segkit trained: an ONNX file with its card, checked before it runs, on one thread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import ModelFileError
from segkit.segmenters.optional import file_hash, read_model_file

#: Rows and columns that the network is shown are multiples of this.
STRIDE = 16
#: A pixel of what comes out depends on no pixel farther away than this.
REACH = 112
#: A network of ours is no larger, in bytes.
LARGEST = 64 << 20


@dataclass(frozen=True)
class Kind:
    """What a network is shown, and which segmenter looks through it."""

    #: name of the segmenter
    segmenter: str
    #: what its card calls itself; another number means that the network wants to be shown other things
    format: str
    #: name of what it takes, and of how many planes that is
    shown: str
    planes: int
    #: the one that segkit carries
    shipped: Path


NUCLEI = Kind("nuclei-net", "segkit nuclei network 1", "brightness", 1, Path(__file__).with_name("nuclei_net.onnx"))
TISSUE = Kind("tissue-net", "segkit tissue network 1", "slide", 3, Path(__file__).with_name("tissue_net.onnx"))
KINDS = {kind.segmenter: kind for kind in (NUCLEI, TISSUE)}


@dataclass(frozen=True, eq=False)
class Network:
    """A checked network, ready to run from any thread."""

    session: Any
    kind: Kind
    #: what is known of it: what it was trained on, its licence, date and scores
    card: Mapping[str, Any]

    def run(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the network says of one plane or several, (planes, rows, columns), whose sides are multiples of `STRIDE`.

        Returns
        -------
        (2, rows, columns) float32
            How likely each pixel is foreground; how deep in its object it lies, from -1 where two touch to 1 in the middle.
        """
        return np.asarray(self.session.run(None, {self.kind.shown: planes.reshape(1, -1, *planes.shape[-2:])})[0][0])


def card_file(model: str) -> str:
    """Return where the card of an ONNX file lies: beside it, as NAME.card.json."""
    return f"{model.removesuffix('.onnx')}.card.json"


@lru_cache(maxsize=8)
def load_network(model: str = "", content_hash: str | None = None, kind: Kind = NUCLEI) -> Network:
    """Return the network in an ONNX file, the shipped one of its kind without a name.

    Raises
    ------
    ModelFileError
        When the file or its card is missing, or is not what the card, or `content_hash`, says: nothing of it was run then.
    """
    model = model or str(kind.shipped)
    content = read_model_file(model, LARGEST)
    card = read_card(model, kind)
    found = file_hash(content)
    if card["hash"] != found:
        raise ModelFileError(f"{model} is not the network that its card describes: the card says {card['hash']}, the file is {found}.")
    if content_hash and content_hash != found:
        raise ModelFileError(f"{model} is not the network that was asked for: it changed since. Its hash is {found}.")
    return Network(_opened(content, model, kind), kind, card)


def read_card(model: str, kind: Kind = NUCLEI) -> dict[str, Any]:
    """Read and check the card of an ONNX file."""
    uri = card_file(model)
    try:
        card = json.loads(read_model_file(uri, 1 << 22))
    except (UnicodeDecodeError, ValueError) as error:
        raise ModelFileError(f"{uri} is not a card of a network: {error}.") from error
    if not isinstance(card, dict) or card.get("format") != kind.format or not isinstance(card.get("hash"), str):
        asked = f'its "format" must be "{kind.format}", with a "hash"'
        raise ModelFileError(f"{uri} is not the card of a network for {kind.segmenter}: {asked}.")
    return card


def _opened(content: bytes, model: str, kind: Kind) -> Any:
    runtime = import_module("onnxruntime")  # a fifth of a second, which `segkit --help` does not wait for
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Tiles are of many sizes: memory that was planned for one is of no use to the next.
    options.enable_mem_pattern = False
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelFileError(f"{model} is not an ONNX model that can be run: {str(error).strip() or type(error).__name__}") from error
    shapes = [[len(entry.shape), entry.shape[1]] for entry in (*session.get_inputs(), *session.get_outputs())]
    if shapes != [[4, kind.planes], [4, 2]] or session.get_inputs()[0].name != kind.shown:
        asked = f"{kind.planes} plane{'s' * (kind.planes > 1)} of {kind.shown}"
        raise ModelFileError(f"{model} does not take {asked} and give two, as a network for {kind.segmenter} does.")
    return session
