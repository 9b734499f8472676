"""Sizes in micrometres and seconds, from the many ways in which files tell them; None where a number does not mean a size."""

from __future__ import annotations

import math
from typing import Any

#: Micrometres in one unit of length, under the names that OME-XML, OME-Zarr, ImageJ and TIFF use.
MICROMETRES = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre", "micrometers", "\\u00b5m"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("å", "angstrom", "ångström"), 1e-4),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("in", "inch", "inches"), 25400.0),
}

#: Seconds in one unit of time.
SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond"), 1e-3),
    **dict.fromkeys(("µs", "μs", "us", "microsecond"), 1e-6),
    **dict.fromkeys(("min", "minute"), 60.0),
    **dict.fromkeys(("h", "hour"), 3600.0),
    **dict.fromkeys(("d", "day"), 86400.0),
}

#: Dots per inch that printers, scanners and screens are set to; image programs write them without anybody having measured.
PRINTING = (1200, 1440, 2400, 2880, 4800, 5760, 9600)
#: A density coarser than this is one for screens and paper too (72 dpi is 353 µm, 600 dpi 42 µm).
COARSEST_UM = 25.0
#: A pixel below a hundredth of an ångström is not a measurement.
FINEST_UM = 1e-6
#: Two edges of a pixel that differ by less are the same.
SQUARE_TOLERANCE = 0.01


def length_um(value: Any, unit: str | None) -> float | None:
    """Return a length in micrometres, or None when it is none: no number, not positive, or in no unit of length.

    Examples
    --------
    >>> length_um("325", "nm")
    0.325
    >>> length_um(1.0, "pixel") is None
    True
    """
    factor = MICROMETRES.get((unit or "").strip().lower())
    number = positive(value)
    return None if factor is None or number is None else number * factor


def duration_s(value: Any, unit: str | None) -> float | None:
    """Return a time in seconds, or None when it is none."""
    factor = SECONDS.get((unit or "").strip().lower())
    number = positive(value)
    return None if factor is None or number is None else number * factor


def positive(value: Any) -> float | None:
    """Return a number when it is positive and finite, otherwise None."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def square(across_um: float | None, down_um: float | None) -> float | None:
    """Return the edge of a square pixel, or None when it is unknown or the pixel is not square to a hundredth.

    Areas and lengths of pixels that are not square would be wrong under any single number.
    """
    if across_um is None or down_um is None:
        return None
    if abs(across_um - down_um) > SQUARE_TOLERANCE * max(across_um, down_um):
        return None
    return across_um


def from_density(across: Any, down: Any, unit_um: float) -> float | None:
    """Return the pixel size that a print density means, or None when it is one for printing.

    Parameters
    ----------
    across, down : float
        Pixels per unit, along columns and rows.
    unit_um : float
        Micrometres in that unit; 25400 for inches.

    Examples
    --------
    >>> from_density(10_000, 10_000, 10_000.0)
    1.0
    >>> from_density(300, 300, 25400.0) is None
    True
    """
    densities = positive(across), positive(down)
    if densities[0] is None or densities[1] is None:
        return None
    size = square(unit_um / densities[0], unit_um / densities[1])
    if size is None or not FINEST_UM <= size <= COARSEST_UM:
        return None
    dots = 25400.0 / size
    return None if any(abs(dots - printing) < 0.002 * printing for printing in PRINTING) else size
