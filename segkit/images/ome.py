"""OME-XML, the metadata of OME-TIFF: pixel size, steps and channel names of the first image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from segkit.images.scale import duration_s, length_um, square


@dataclass(frozen=True)
class Metadata:
    """What a file tells about its sizes and channels, as far as it does."""

    names: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    z_step_um: float | None = None
    time_step_s: float | None = None


def read_ome(xml: str | None) -> Metadata:
    """Read the metadata of the first image in OME-XML; nothing is known from XML that is damaged.

    Examples
    --------
    >>> read_ome('<OME><Image><Pixels PhysicalSizeX="0.5" PhysicalSizeY="0.5"/></Image></OME>').pixel_size_um
    0.5
    """
    pixels = _first_pixels(xml)
    if pixels is None:
        return Metadata()
    return Metadata(
        names=tuple(channel.get("Name") or channel.get("Fluor") or "" for channel in _children(pixels, "Channel")),
        pixel_size_um=square(_length(pixels, "X"), _length(pixels, "Y")),
        z_step_um=_length(pixels, "Z"),
        time_step_s=duration_s(pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s")),
    )


def _first_pixels(xml: str | None) -> ElementTree.Element | None:
    try:
        root = ElementTree.fromstring(xml or "")
    except (ElementTree.ParseError, ValueError):
        return None
    return next((pixels for image in _children(root, "Image") for pixels in _children(image, "Pixels")), None)


def _children(parent: ElementTree.Element, tag: str) -> Iterator[ElementTree.Element]:
    """Children of a tag, in whichever version of the OME namespace."""
    return (child for child in parent if child.tag.rpartition("}")[2] == tag)


def _length(pixels: ElementTree.Element, axis: str) -> float | None:
    return length_um(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
