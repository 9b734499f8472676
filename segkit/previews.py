"""What a notebook shows of a project, run or image: tables, small pictures and galleries in HTML. All text from outside is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Longest side of a picture in a gallery, in pixels.
EDGE = 256
#: Longest reason that is shown beside a picture; `Run.failures` has all of it.
LONGEST_NOTE = 300

TILE = "display:inline-block;vertical-align:top;margin:4px;max-width:260px;font-size:small;overflow-wrap:anywhere"


@dataclass(frozen=True)
class Tile:
    """One picture of a gallery, or a reason why there is none."""

    title: str
    note: str
    picture: NDArray[np.uint8] | None = None  #: (rows, columns) or (rows, columns, 3)


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side in a notebook; elsewhere a list of their titles and notes."""

    tiles: tuple[Tile, ...]

    def __repr__(self) -> str:
        return "\n".join(f"{tile.title}: {tile.note}" for tile in self.tiles) or "nothing to show"

    def _repr_html_(self) -> str:
        return tiles_html(self.tiles) or "<i>nothing to show</i>"


def tiles_html(tiles: Iterable[Tile]) -> str:
    """Show tiles side by side."""
    return "".join(tile_html(tile) for tile in tiles)


def tile_html(tile: Tile) -> str:
    """Show one tile: its picture, and its title and note below."""
    picture = picture_html(tile.picture, tile.title) if tile.picture is not None else ""
    note = tile.note if len(tile.note) <= LONGEST_NOTE else f"{tile.note[:LONGEST_NOTE]}…"
    return f'<figure style="{TILE}">{picture}<figcaption><b>{escape(tile.title)}</b><br>{escape(note)}</figcaption></figure>'


def picture_html(picture: NDArray[np.uint8], title: str) -> str:
    """Show a small picture, (rows, columns) or (rows, columns, 3) uint8, inside the page itself: no other file, no address."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(title)}" style="max-width:100%">'


def picked(labels: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return a label image at another size, (rows, columns), by picking pixels: numbers are not mixed."""
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(shape, labels.shape, strict=True))
    return labels[np.ix_(rows, columns)]


def oddest(looks: Sequence[tuple[int, float]], count: int, confidences: Sequence[float] = ()) -> list[int]:
    """Choose what differs most from the rest.

    Parameters
    ----------
    looks : sequence of (objects, typical size)
        Of each image; NaN where there is no object to have a size.
    count : int
        How many to choose at most.
    confidences : sequence of float, optional
        How sure the segmenter was of each image's objects; NaN where it does not say. Where any is known they decide.

    Returns
    -------
    list of int
        Their places in `looks`, the oddest first: by the larger of both ratios to the median, whichever way it goes. With
        confidences: first those that have none, such as images in which nothing was found, then the least sure.

    Examples
    --------
    >>> oddest([(100, 50.0), (90, 52.0), (0, float("nan")), (110, 250.0)], 2)
    [2, 3]
    """
    if count < 1 or not looks:
        return []
    counts, medians = np.asarray(looks, dtype=np.float64).T
    objects, sizes = np.log1p(counts), np.log(medians)
    known = np.isfinite(sizes)
    apart = np.abs(objects - np.median(objects))
    if known.any():
        apart[known] = np.maximum(apart[known], np.abs(sizes[known] - np.median(sizes[known])))
    sure = np.asarray(confidences or np.full(len(looks), np.nan), dtype=np.float64)
    order = np.lexsort((-apart, np.nan_to_num(sure, nan=-1.0)))
    return [int(place) for place in order[:count]]


def facts_html(title: str, facts: Mapping[str, object]) -> str:
    """Show what is known of one thing, a line for each fact; what is None is left out."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{cell(value)}</td></tr>" for name, value in facts.items() if value is not None)
    return f"<b>{escape(title)}</b><table>{rows}</table>"


def rows_html(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Show a table."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell(value)}</td>' for value in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def cell(value: object) -> str:
    """Show one value."""
    return "" if value is None else escape(f"{value:.4g}" if isinstance(value, float) else str(value))
