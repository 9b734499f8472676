"""A trained network as a file that its segmenter takes: ONNX, with a card that says what it was made of and how good it is."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from segkit import __version__
from segkit.errors import MissingExtraError
from segkit.scoring import Scores
from segkit.segmenters.network import LARGEST, NUCLEI, STRIDE, Kind, card_file
from segkit.segmenters.optional import file_hash
from segkit.training.design import NucleiNet
from segkit.training.fitting import Fit, Shown
from segkit.training.pairs import LabelledImage
from segkit.training.purposes import purpose_of

#: Operators of ONNX that are used: old enough for every onnxruntime that segkit takes.
OPSET = 17


def onnx_of(net: NucleiNet, kind: Kind = NUCLEI) -> bytes:
    """Return a network as an ONNX file that takes what its kind is shown and gives foreground and depth.

    Raises
    ------
    MissingExtraError
        When the package `onnx`, with which PyTorch writes such files, is not installed.
    """
    held = BytesIO()
    free = {kind.shown: {2: "rows", 3: "columns"}, "maps": {2: "rows", 3: "columns"}}
    shown = Shown(net.to(memory_format=torch.contiguous_format)).eval()
    asked: dict[str, Any] = {"input_names": [kind.shown], "output_names": ["maps"], "dynamic_axes": free, "opset_version": OPSET}
    try:
        with warnings.catch_warnings():  # the older writer is asked for: its files hold no shapes that were only guessed
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(shown, (torch.zeros(1, kind.planes, 4 * STRIDE, 4 * STRIDE),), held, dynamo=False, **asked)
    except ModuleNotFoundError as error:
        raise MissingExtraError("Saving a network", "train") from error
    return held.getvalue()


def save_model(
    state: Fit,
    target: Path | str,
    *,
    training: Sequence[LabelledImage],
    validation: Sequence[LabelledImage],
    data: str,
    licence: str,
    scores: Mapping[str, Scores] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a trained network, and its card beside it.

    Parameters
    ----------
    state : Fit
    target : Path or str
        NAME.onnx; the card becomes NAME.card.json. `segkit.segment(image, "nuclei-net", model=target)`, or of another segmenter, uses it.
    training, validation : sequence of LabelledImage
        What it was trained on, and what decided when to stop: their names go on the card.
    data, licence : str
        Where the images come from, and under which licence.
    scores : mapping, optional
        How well it did, by the name of the part.
    notes : mapping, optional
        More to say on the card.
    """
    target = Path(target)
    kind = purpose_of(state.settings.segmenter).kind
    content = onnx_of(state.averaged, kind)
    if len(content) > LARGEST:
        raise ValueError(f"the network takes {len(content)} bytes, and {kind.segmenter} takes up to {LARGEST}")
    card = {
        "format": kind.format,
        "hash": file_hash(content),
        "made": datetime.now(UTC).date().isoformat(),
        "data": data,
        "licence": licence,
        "scores": {part: {key: round(value, 4) for key, value in held.as_dict().items()} for part, held in (scores or {}).items()},
        "trained_on": sorted(image.name for image in training),
        "validated_on": sorted(image.name for image in validation),
        "settings": asdict(state.settings),
        "steps": state.step,
        "looks": [asdict(look) for look in state.looks],
        "made_by": {"segkit": __version__, "torch": torch.__version__},
        **(notes or {}),
    }
    target.write_bytes(content)
    Path(card_file(str(target))).write_text(json.dumps(card, indent=1) + "\n")
    return target
