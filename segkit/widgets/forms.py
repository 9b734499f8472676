"""A control for each typed parameter, built from the segmenter's own schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segkit import segmenters
from segkit.widgets.stage import UNITS

#: Filled in by segkit itself.
HIDDEN = {"model_hash"}
KINDS = {"number": "number", "integer": "integer", "boolean": "flag"}
#: Sliders over more than this many times their smallest step run on a logarithmic scale.
EVEN = 1000
#: Divisions of a slider whose parameter declares no step.
DIVISIONS = 200


def fields_of(segmenter: segmenters.Segmenter, intensities: tuple[float, float] = (0, 255)) -> list[dict[str, Any]]:
    """Describe the controls of a segmenter's parameters.

    Parameters
    ----------
    segmenter : Segmenter
        Whose parameters.
    intensities : (least, most)
        Of the image: the range of a parameter that is an intensity and declares no limits.

    Returns
    -------
    list of dict
        `name`, `label`, `kind` ("number", "integer", "flag", "choice" or "text"), `default`, `description`, `unit`, `optional`
        (may be left to the segmenter), and, of numbers, `low`, `high`, `step` and `even` (false: a logarithmic scale).
    """
    schema = segmenter.parameters.model_json_schema()
    described = {name: resolved(field, schema.get("$defs", {})) for name, field in schema["properties"].items()}
    return [field_of(name, field, intensities) for name, field in described.items() if name not in HIDDEN]


def resolved(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Put what a field says of itself, of its one alternative to null, and of what it refers to, together."""
    merged = dict(field)
    alternatives = merged.pop("anyOf", [])
    merged["optional"] = {"type": "null"} in alternatives
    for other in [each for each in alternatives if each != {"type": "null"}][:1] + merged.pop("allOf", []):
        merged = {**other, **merged}
    reference = merged.pop("$ref", None)
    return {**definitions[reference.rsplit("/", 1)[1]], **merged} if reference else merged


def field_of(name: str, field: Mapping[str, Any], intensities: tuple[float, float]) -> dict[str, Any]:
    """Describe one control."""
    unit = field.get("unit", "")
    described = {
        "name": name,
        "label": name.removesuffix(f"_{unit}").removesuffix("_um").replace("_", " "),
        "unit": UNITS.get(unit, unit),
        "description": field.get("description", ""),
        "default": field.get("default"),
        "optional": field["optional"],
    }
    if "enum" in field:
        return described | {"kind": "choice", "choices": list(field["enum"])}
    kind = KINDS.get(field.get("type", "string"), "text")
    return described | {"kind": kind} | (scale_of(field, kind, intensities) if kind in ("number", "integer") else {})


def scale_of(field: Mapping[str, Any], kind: str, intensities: tuple[float, float]) -> dict[str, Any]:
    """Choose the ends and the steps of a slider."""
    low = field.get("minimum", field.get("exclusiveMinimum", intensities[0]))
    high = field.get("maximum", field.get("exclusiveMaximum", intensities[1]))
    step = field.get("step") or (1 if kind == "integer" or high - low > DIVISIONS else (high - low) / DIVISIONS)
    limited = "maximum" in field or "exclusiveMaximum" in field
    return {"low": low, "high": high, "step": step, "even": not limited or (high - low) / step <= EVEN}
