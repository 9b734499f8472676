"""What a segmenter can be told: frozen, typed, documented parameters that a form or a slider can be built from."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from segkit.errors import InvalidParameterError, PixelSizeError


def parameter(
    default: Any, description: str, *, unit: str = "", ge: float | None = None, le: float | None = None, step: float | None = None
) -> Any:
    """Declare one parameter of a segmenter.

    `unit`, and the `step` of a slider where given, travel in the JSON schema beside the description and the limits.
    """
    extra: dict[str, Any] = {"unit": unit}
    if step is not None:
        extra["step"] = step
    return Field(default, description=description, ge=ge, le=le, json_schema_extra=extra)


class Parameters(BaseModel):
    """The parameters of a segmenter: unchangeable once made, and nothing beyond what is declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SizedParameters(Parameters):
    """Parameters of a segmenter that wants to know how large the objects are."""

    diameter: float | None = parameter(
        None, "Typical object diameter; leave empty to estimate it from the image.", unit="px", ge=2, le=2000, step=1
    )
    diameter_um: float | None = parameter(
        None, "Typical object diameter in micrometres, when the pixel size is known.", unit="µm", ge=0.01, le=10000, step=0.5
    )

    def diameter_px(self, pixel_size_um: float | None) -> float | None:
        """Return the diameter in pixels, or None when it is left to be estimated."""
        if self.diameter_um is None:
            return self.diameter
        if self.diameter is not None:
            raise InvalidParameterError("Give either diameter (pixels) or diameter_um (micrometres), not both.")
        if pixel_size_um is None:
            raise InvalidParameterError("diameter_um needs a pixel size: give pixel_size_um, or the size in pixels as diameter.")
        return self.diameter_um / check_pixel_size(pixel_size_um)


def check_pixel_size(pixel_size_um: float) -> float:
    """Return the pixel size unchanged, or raise `PixelSizeError` when it is not a positive number."""
    if not 0 < pixel_size_um < float("inf"):
        raise PixelSizeError
    return float(pixel_size_um)
