"""One look for all pages: navigation, light and dark, readable on a phone, and all of it from this machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import panel as pn

from segkit.boards import board_of
from segkit.kit import Kit

PAGE = Path(__file__).parent / "page"
#: Longer numbers are no run's.
MOST_DIGITS = 19
#: Pages by the name of their file, in the order of the navigation.
TITLES = {"queue_status": "Queue", "performance": "Performance", "results": "Results"}


@cache
def part(name: str) -> str:
    """Return a file of the page."""
    return (PAGE / name).read_text("utf-8")


@cache
def template() -> str:
    """Return the page's template, with its style and script inside: nothing is fetched for it."""
    return part("page.html").replace("/*STYLE*/", part("page.css")).replace("/*SCRIPT*/", part("page.js"))


class Page(pn.Template):
    """A page of a dashboard: rows of cards under the navigation."""

    def __init__(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        super().__init__(template())
        placed = []
        for number, row in enumerate(rows):
            names = [f"card_{number}_{place}" for place in range(len(row))]
            for each, shown in zip(names, row, strict=True):
                self.add_panel(each, shown)
            placed.append(names)
        self.add_variable("rows", placed)
        self.add_variable("here", name)
        self.add_variable("pages", TITLES)
        self.add_variable("heading", TITLES[name])


def page(name: str, rows: Sequence[Sequence[Any]]) -> Page:
    """Lay cards out.

    Parameters
    ----------
    name : str
        Which page this is: "queue_status", "performance" or "results".
    rows : sequence of sequences
        Cards or other Panel objects; those of a row stand side by side where there is room.
    """
    return Page(name, rows)


def chosen_run() -> int | None:
    """Return the run that the page's address names (`?run=12`); None when it names none."""
    given = pn.state.session_args.get("run", [b""])[0] if pn.state.curdoc else b""
    return int(given) if given.isdigit() and len(given) < MOST_DIGITS else None


def newest_run(kit: Kit) -> int | None:
    """Return the newest run that has results; None when no run has."""
    return max((run.id for run in board_of(kit).snapshot().runs if run.done), default=None)
