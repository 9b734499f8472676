"""What every benchmark shares: its arguments, its table, and the JSON line it may end in."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that knows `--quick` and `--json`; a benchmark may add its own."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smaller run, under a minute")
    parser.add_argument("--json", action="store_true", help="end in one line of JSON")
    return parser


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table: the first column to the left, the others to the right, floats with three digits."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    for row in rows:
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console().print(table)


def finish(figures: Mapping[str, float], as_json: bool) -> None:
    """Print the figures, each on a line, or all as one last line of JSON."""
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
    if as_json:
        print(json.dumps(rounded))
    else:
        for name, value in rounded.items():
            print(f"{name:>24} {value:g}")
