"""Small notebooks made in code, for tests of what runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def write_notebook(path: Path, *cells: str, parameters: str | None = "x = 1", kernel: dict[str, Any] | None = KERNEL) -> Path:
    """Write a notebook of these cells, after a parameters cell if there is one."""
    notebook = new_notebook(metadata={"kernelspec": kernel} if kernel else {})
    notebook.cells.append(new_markdown_cell("# A notebook"))
    if parameters is not None:
        notebook.cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    notebook.cells += [new_code_cell(source) for source in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path
