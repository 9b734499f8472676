"""Pixel size, steps and channel names that a TIFF file tells: as OME-XML, in ImageJ's or a scanner's way, or by its resolution tags."""

from __future__ import annotations

import re
from typing import Any

import tifffile

from segkit.images.ome import Metadata, read_ome
from segkit.images.scale import duration_s, from_density, length_um, square

#: Micrometres in TIFF's units of resolution.
RESOLUTION_UNITS = {2: 25400.0, 3: 10000.0}
#: A label longer than this is a remark or file name, not the name of a channel.
LONGEST_NAME = 64


def read_metadata(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, channels: int) -> Metadata:
    """Read what is known of sizes and channels, from the most telling source that there is."""
    page = series.keyframe
    if tiff.is_ome:
        return read_ome(tiff.ome_metadata)
    if tiff.is_imagej:
        return _imagej(tiff.imagej_metadata or {}, page, channels)
    if tiff.is_lsm:
        return _lsm(tiff.lsm_metadata or {})
    microns = re.search(r"\bMPP\s*=\s*([0-9.]+)", page.description) if page.is_svs else None
    if microns:
        return Metadata(pixel_size_um=length_um(microns[1], "µm"))
    return Metadata(pixel_size_um=_by_resolution(page))


def _imagej(metadata: dict[str, Any], page: tifffile.TiffPage, channels: int) -> Metadata:
    unit = str(metadata.get("unit", ""))
    labels = metadata.get("Labels") or []
    labels = [str(label) for label in labels] if isinstance(labels, list) else []
    named = len(labels) == channels > 1 and len(set(labels)) == channels and max(map(len, labels)) <= LONGEST_NAME
    across, down = (length_um(_ratio(page, tag, inverse=True), unit) for tag in ("XResolution", "YResolution"))
    return Metadata(
        names=tuple(labels) if named else (),
        pixel_size_um=square(across, down),
        z_step_um=length_um(metadata.get("spacing"), str(metadata.get("zunit", unit))),
        time_step_s=duration_s(metadata.get("finterval"), str(metadata.get("tunit", "s"))),
    )


def _lsm(metadata: dict[str, Any]) -> Metadata:
    return Metadata(
        pixel_size_um=square(length_um(metadata.get("VoxelSizeX"), "m"), length_um(metadata.get("VoxelSizeY"), "m")),
        z_step_um=length_um(metadata.get("VoxelSizeZ"), "m"),
        time_step_s=duration_s(metadata.get("TimeInterval"), "s"),
    )


def _by_resolution(page: tifffile.TiffPage) -> float | None:
    tag = page.tags.get("ResolutionUnit")
    unit = RESOLUTION_UNITS.get(int(tag.value) if tag is not None and isinstance(tag.value, int) else 2)
    across, down = _ratio(page, "XResolution"), _ratio(page, "YResolution")
    return None if unit is None else from_density(across, down, unit)


def _ratio(page: tifffile.TiffPage, name: str, inverse: bool = False) -> float | None:
    """Return a tag that holds a fraction; None when it is missing or divides by zero."""
    tag = page.tags.get(name)
    if tag is None or not isinstance(tag.value, tuple) or len(tag.value) != 2:
        return None
    upper, lower = reversed(tag.value) if inverse else tag.value
    return upper / lower if lower else None
