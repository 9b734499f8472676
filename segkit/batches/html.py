"""An executed notebook as one page of HTML that needs no network."""

from __future__ import annotations

import copy
import re
from functools import cache
from typing import Any

from nbconvert import HTMLExporter
from traitlets.config import Config

#: Cells with these tags show less in the page: reports are read by people who do not want their code.
HIDE_INPUT, HIDE_CELL = "hide-input", "hide-cell"
#: Places outside that the exporter's template would load scripts from.
SCRIPTS = (
    "require_js_url",
    "jquery_url",
    "mathjax_url",
    "mermaid_js_url",
    "mermaid_layout_elk_js_url",
    "jupyter_widgets_base_url",
    "widget_renderer_url",
)


#: What the template makes of a place that is empty.
EMPTY_SCRIPT = re.compile(r'<script src="">\s*</script>')


@cache
def exporter() -> HTMLExporter:
    """Make the exporter; its templates take a moment to load."""
    config = Config()
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = {HIDE_INPUT}
    config.TagRemovePreprocessor.remove_cell_tags = {HIDE_CELL}
    config.HTMLExporter.preprocessors = ["nbconvert.preprocessors.TagRemovePreprocessor"]
    made = HTMLExporter(config=config)
    for name in SCRIPTS:
        setattr(made, name, "")
    return made


def page_of(notebook: Any, title: str) -> str:
    """Write an executed notebook as HTML."""
    shown = copy.deepcopy(notebook)
    for cell in shown.cells:
        if "injected-parameters" in cell.metadata.get("tags", []) and hides_parameters(notebook):
            cell.metadata.tags.append(HIDE_INPUT)
    page, _ = exporter().from_notebook_node(shown, {"metadata": {"name": title}})
    return EMPTY_SCRIPT.sub("", str(page))


def hides_parameters(notebook: Any) -> bool:
    """Whether the cell that declares the parameters hides its code; then the values that were handed over are hidden too."""
    return any({"parameters", HIDE_INPUT} <= set(cell.metadata.get("tags", [])) for cell in notebook.cells)
