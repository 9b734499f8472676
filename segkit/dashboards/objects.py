"""A run's objects as points: two measurements against each other, their distributions, and what a person selects in all three."""

from __future__ import annotations

import logging
from collections import Counter
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
import panel as pn
from bokeh.layouts import gridplot
from bokeh.models import BoxSelectTool, ColumnDataSource, HoverTool, LassoSelectTool
from bokeh.plotting import figure
from numpy.typing import NDArray

from segkit.boards.looks import Look, Sample, kept_look
from segkit.dashboards.turns import Turns, threads
from segkit.errors import SegkitError
from segkit.kit import Kit

log = logging.getLogger(__name__)
BINS = 40
POINT, CHOSEN, QUIET = "#0f7fb8", "#d55e00", "#8a949e"
#: What is shown first, where a run measured it.
FIRST = (("area_", "volume_"), ("circularity", "eccentricity", "solidity", "intensity_mean"))
TOOLS = "pan,wheel_zoom,reset,save"
SIDE = 190
#: As the cards beside it look.
CARD = {
    "background": "var(--jp-layout-color1)",
    "color": "var(--jp-ui-font-color1)",
    "border": "1px solid var(--jp-border-color1)",
    "border-radius": "8px",
    "padding": "6px 16px 12px",
}
TEXT = [":host { color: inherit; font: 14px/1.4 system-ui, sans-serif; } h2 { font-size: 16px; margin: 4px 0; } p { margin: 2px 0; }"]
SELECT = [
    ".bk-input, label { color: var(--jp-ui-font-color1); background: var(--jp-layout-color1); border-color: var(--jp-border-color1); }"
]


class ObjectsPane:
    """Scatter and histograms of one run's objects, linked: what is selected in the scatter shows in both histograms.

    Parameters
    ----------
    kit, run
        Whose objects; read in a thread of its own.
    """

    def __init__(self, kit: Kit, run: int | None) -> None:
        self._kit, self._run = kit, run
        self._sample = Sample()
        self._turns = Turns()
        self._words = pn.pane.HTML("<p>reading …</p>", sizing_mode="stretch_width", stylesheets=TEXT)
        self._x, self._y = (pn.widgets.Select(label=label, options=[], width=220, stylesheets=SELECT) for label in ("Across", "Up"))
        self._points = ColumnDataSource({"x": [], "y": [], "image": []})
        self._bars = {axis: ColumnDataSource({name: [] for name in ("low", "high", "all", "chosen")}) for axis in "xy"}
        self._scatter, self._across, self._up = self._figures()
        self._x.param.watch(self._draw, "value")
        self._y.param.watch(self._draw, "value")
        self._points.selected.on_change("indices", lambda name, old, new: self._choose(new))
        grid = gridplot(
            [[self._across, None], [self._scatter, self._up]], merge_tools=True, sizing_mode="stretch_width", toolbar_location="right"
        )
        self._plots = pn.pane.Bokeh(grid, sizing_mode="stretch_width", visible=False)
        self._controls = pn.FlexBox(self._x, self._y, visible=False)
        if run is None:
            self._words.object = "<p>No run has results yet.</p>"
        else:
            threads().submit(self._read).add_done_callback(self._take)

    def layout(self) -> pn.Column:
        """Return what stands on the page."""
        heading = pn.pane.HTML("<h2>Objects</h2>", sizing_mode="stretch_width", stylesheets=TEXT)
        return pn.Column(heading, self._words, self._controls, self._plots, sizing_mode="stretch_width", styles=CARD)

    def _figures(self) -> tuple[Any, Any, Any]:
        plain: dict[str, Any] = {"output_backend": "webgl", "background_fill_alpha": 0, "border_fill_alpha": 0, "outline_line_color": None}
        scatter = figure(height=420, min_width=240, tools=TOOLS, sizing_mode="stretch_width", **plain)
        scatter.add_tools(LassoSelectTool(), BoxSelectTool(), HoverTool(tooltips=[("image", "@image"), ("across", "@x"), ("up", "@y")]))
        scatter.scatter(
            "x", "y", source=self._points, size=4, fill_color=POINT, fill_alpha=0.5, line_color=None,
            selection_fill_color=CHOSEN, selection_fill_alpha=0.9, nonselection_fill_color=QUIET, nonselection_fill_alpha=0.25,
        )  # fmt: skip
        across = figure(height=SIDE, min_width=240, x_range=scatter.x_range, tools="", sizing_mode="stretch_width", **plain)
        up = figure(height=420, width=SIDE, y_range=scatter.y_range, tools="", **plain)
        for name, colour, alpha in (("all", POINT, 0.45), ("chosen", CHOSEN, 0.9)):
            across.quad(
                left="low", right="high", bottom=0, top=name, source=self._bars["x"], fill_color=colour, fill_alpha=alpha, line_color=None
            )
            up.quad(
                bottom="low", top="high", left=0, right=name, source=self._bars["y"], fill_color=colour, fill_alpha=alpha, line_color=None
            )
        across.yaxis.axis_label = up.xaxis.axis_label = "objects"
        return scatter, across, up

    def _read(self) -> tuple[Look, Sample]:
        look = kept_look(self._kit, self._run or 0)
        return look, look.sample

    def _take(self, future: Future[tuple[Look, Sample]]) -> None:
        """Show what was read, or why it was not; whatever the reason, the page does not say for ever that it reads."""
        error = future.exception()
        if error is None:
            self._turns.later(partial(self._show, *future.result()))
            return
        if not isinstance(error, SegkitError):
            log.error("The objects of run %s could not be read", self._run, exc_info=error)
        self._turns.later(partial(self._fail, str(error) or type(error).__name__))

    def _fail(self, why: str) -> None:
        self._words.object = f"<p>{pn.util.escape(why)}</p>"

    def _show(self, look: Look, sample: Sample) -> None:
        self._sample = sample
        names = list(sample.columns)
        if not names:
            self._words.object = f"<p>{sample.words if look.objects else 'No objects were found.'}</p>"
            return
        chosen = [
            next((name for name in names if name.startswith(wanted)), names[place % len(names)]) for place, wanted in enumerate(FIRST)
        ]
        self._x.options, self._y.options = names, names
        self._x.value, self._y.value = chosen
        self._plots.visible = self._controls.visible = True
        self._draw()

    def _draw(self, *events: Any) -> None:
        if self._x.value is None or self._y.value is None:
            return
        x, y = self._sample.columns[self._x.value], self._sample.columns[self._y.value]
        self._points.selected.indices = []
        self._points.data = {"x": x, "y": y, "image": list(self._sample.images)}
        self._scatter.xaxis.axis_label, self._scatter.yaxis.axis_label = self._x.value, self._y.value
        for axis, values in (("x", x), ("y", y)):
            self._bars[axis].data = bars(values, values[:0])
        self._say([])

    def _choose(self, indices: list[int]) -> None:
        for axis, name in (("x", self._x.value), ("y", self._y.value)):
            values = self._sample.columns[name]
            self._bars[axis].data = bars(values, values[indices])
        self._say(indices)

    def _say(self, indices: list[int]) -> None:
        text = f"{self._sample.words} Select with the box or the lasso to see where they lie in both distributions."
        if indices:
            images = Counter(self._sample.images[place] for place in indices)
            named = ", ".join(f"{pn.util.escape(name)} ({number:,})" for name, number in images.most_common(5))
            more = f", and {len(images) - 5:,} more" if len(images) > 5 else ""
            text = f"{len(indices):,} of {self._sample.drawn:,} points selected, in {len(images):,} images: {named}{more}."
        self._words.object = f'<p role="status">{text}</p>'


def bars(values: NDArray[np.float64], chosen: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Count values, and those chosen of them, in the same bins; what is not finite is left out."""
    finite = values[np.isfinite(values)]
    edges = np.histogram_bin_edges(finite if len(finite) else [0.0, 1.0], BINS)
    return {
        "low": edges[:-1],
        "high": edges[1:],
        "all": np.histogram(finite, edges)[0],
        "chosen": np.histogram(chosen[np.isfinite(chosen)], edges)[0],
    }
