"""What reports are made of: facts, tables and plots that show themselves in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from segkit import previews

#: Rows that a table of a report shows; exports have all.
MOST_ROWS = 200
#: Inches, and pixels for each.
WIDTH, HEIGHT, DENSITY = 4.2, 2.8, 96
BLUE, ORANGE = "#2f6fab", "#c8641b"


@dataclass(frozen=True)
class Piece:
    """One part of a report."""

    html: str
    text: str  #: the same where no HTML is shown

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


def facts(title: str, known: Mapping[str, object]) -> Piece:
    """Show facts, a line for each; what is None is left out."""
    lines = (f"{name}: {value}" for name, value in known.items() if value is not None)
    return Piece(previews.facts_html(title, known), "\n".join((title, *lines)))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Piece:
    """Show rows, at most 200 of them, and say so when there are more."""
    more = f"<p>{len(rows) - MOST_ROWS} more rows are not shown.</p>" if len(rows) > MOST_ROWS else ""
    html = previews.rows_html(columns, rows[:MOST_ROWS]) + more if rows else "<i>nothing to show</i>"
    return Piece(html, "\n".join("\t".join(map(str, row)) for row in (columns, *rows[:MOST_ROWS])))


def plots(title: str, draws: Sequence[tuple[str, Callable[[Any], None]]], columns: int = 2) -> Piece:
    """Draw plots side by side into one picture that is part of the page.

    Parameters
    ----------
    draws : sequence of (title, function)
        Each function gets the axes to draw into.
    """
    if not draws:
        return Piece("<i>nothing to plot</i>", "nothing to plot")
    rows = -(-len(draws) // columns)
    figure = Figure(figsize=(WIDTH * min(columns, len(draws)), HEIGHT * rows), dpi=DENSITY, layout="constrained")
    for number, (name, draw) in enumerate(draws, 1):
        axes = figure.add_subplot(rows, min(columns, len(draws)), number)
        draw(axes)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    names = ", ".join(name for name, _ in draws)
    return Piece(previews.picture_html(rendered(figure), f"{title}: {names}"), f"{title}: {names}")


def rendered(figure: Figure) -> NDArray[np.uint8]:
    """Render a figure: (rows, columns, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def histogram(values: NDArray[np.float64], unit: str) -> Callable[[Any], None]:
    """Draw how values are distributed; the outermost hundredth on each side is gathered in the outermost bars."""

    def draw(axes: Any) -> None:
        finite = values[np.isfinite(values)]
        if finite.size == 0:
            axes.text(0.5, 0.5, "no values", ha="center", va="center", transform=axes.transAxes)
            return
        low, high = np.quantile(finite, (0.01, 0.99))
        axes.hist(np.clip(finite, low, high), bins=40, color=BLUE)
        axes.axvline(float(np.median(finite)), color=ORANGE, linewidth=1.2)
        axes.set_xlabel(unit, fontsize=8)

    return draw
