"""The revisions of the tables, oldest first. `database.upgrade` and `database.downgrade` run them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


@cache
def known() -> tuple[str, ...]:
    """Return every revision that this segkit knows, oldest first: the number that each file in `versions` starts with."""
    return tuple(sorted(path.stem.partition("_")[0] for path in (FOLDER / "versions").glob("[0-9]*_*.py")))
