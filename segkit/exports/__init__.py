"""Results in other tools' formats: one module each. Every format streams, one image at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from segkit.errors import UnknownExportError
from segkit.exports import coco, delimited, excel, geojson, imagej, omezarr, tiff, yolo
from segkit.exports.items import Item, item, item_of_arrays
from segkit.exports.output import Output

__all__ = ["FORMATS", "Format", "Item", "export", "formats", "item", "item_of_arrays"]


@dataclass(frozen=True)
class Format:
    """A format that results are exported to."""

    name: str
    summary: str
    write: Callable[[Iterable[Item], Output, Callable[[Item], None]], None]
    single: str | None = None  #: name of its file, when it writes one for all images


FORMATS = {
    each.name: each
    for each in (
        Format("coco", "COCO JSON, masks as run lengths: exact, holes included", coco.write, "annotations.json"),
        Format("coco-polygons", "COCO JSON, masks as polygons; run lengths where there are holes", coco.write_polygons, "annotations.json"),
        Format("geojson", "GeoJSON for QuPath, one file per image, with measurements", geojson.write),
        Format("yolo", "YOLO segmentation data set; holes are lost", yolo.write),
        Format("imagej", "ImageJ RoiSet.zip for each image", imagej.write),
        Format("csv", "CSV table of all objects", delimited.write, "objects.csv"),
        Format("excel", "Excel workbook of all objects", excel.write, "objects.xlsx"),
        Format("tiff", "label TIFF for each image, as ImageJ or OME-TIFF", tiff.write),
        Format("ome-zarr", "multiscale label image for each image, for napari", omezarr.write),
    )
}


def formats() -> dict[str, str]:
    """Return what results can be exported to: name and summary."""
    return {name: each.summary for name, each in FORMATS.items()}


def export(
    format: str,
    items: Iterable[Item],
    out: str | Path,
    overwrite: bool = False,
    progress: Callable[[int, str], None] | None = None,
) -> Path:
    """Write results in another tool's format.

    Parameters
    ----------
    format : str
        One of `formats()`.
    items : iterable of Item
        The images; drawn one at a time, and not kept.
    out : path
        Folder to write into; it may have other files in it. For a format of one file also that file, such as `objects.csv`.
    overwrite : bool
        Replace files of the same names.
    progress : callable, optional
        Called with 1 and the image's name after each image.

    Returns
    -------
    Path
        The file of a format that writes one, or else the folder.

    Raises
    ------
    UnknownExportError
        There is no such format; the nearest is suggested.
    OutputExistsError
        A file is there already and `overwrite` is false; nothing was changed.
    DiskFullError, NotWritableError
        The disk says so; nothing half-written stays.
    """
    if format not in FORMATS:
        raise UnknownExportError(format, FORMATS)
    chosen = FORMATS[format]
    report = progress or (lambda steps, name: None)
    with Output(Path(out), chosen.single, overwrite) as output:
        chosen.write(items, output, lambda item: report(1, item.name))
    return output.path
