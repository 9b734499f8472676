"""Object counts and sizes over time and wells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from segkit.errors import SelectionError
from segkit.reports.pieces import Piece, plots, table
from segkit.runs import Run

#: Finds wells such as A1 or B_03, and times such as t004 or T12, in image names.
NAMES = r"(?:^|[^A-Za-z])(?P<well>[A-P][_-]?\d{1,2})?(?![A-Za-z]).*?(?:[tT](?P<time>\d+))?\.\w+$"
SIZES = ("area_um2", "area", "volume_um3", "volume")
#: More lines than this tell nobody anything; the table has all.
MOST_LINES = 24


@dataclass(frozen=True)
class Following:
    """Counts and sizes by well and time; each property is one piece of the report."""

    table_of: pd.DataFrame  #: well, time, objects, size: one row for each well and time
    size: str  #: name of the measurement that `size` is the median of

    @property
    def rows(self) -> Piece:
        """Each well and time."""
        rows: Sequence[Sequence[object]] = [tuple(row) for row in self.table_of.itertuples(index=False)]
        return table(("well", "time", "objects", f"median {self.size}"), rows)

    @property
    def courses(self) -> Piece:
        """Counts and sizes over time, a line for each well."""
        names = {"objects": "objects", "size": f"median {self.size}"}
        return plots("Over time", [(title, partial(self._draw, column)) for column, title in names.items()])

    def _draw(self, column: str, axes: Any) -> None:
        wells = self.table_of.groupby("well", sort=True)
        for well, rows in list(wells)[:MOST_LINES]:
            axes.plot(rows["time"], rows[column], marker="o", markersize=3, linewidth=1, label=str(well) or "all")
        axes.set_xlabel("time", fontsize=8)
        axes.set_ylim(bottom=0)
        if 1 < wells.ngroups <= MOST_LINES:
            axes.legend(fontsize=6, ncols=2)

    @property
    def growth(self) -> Piece:
        """From the first time to the last: by what factor counts and sizes changed, wells that changed most first."""
        rows = [changed(str(well), rows) for well, rows in self.table_of.groupby("well", sort=True)]
        rows.sort(key=lambda row: -abs((row[3] or 1.0) - 1))
        return table(("well", "first time", "last time", "objects, factor", f"{self.size}, factor"), rows)


def changed(well: str, rows: pd.DataFrame) -> tuple[str, int, int, float | None, float | None]:
    """Compare the last time of a well with its first."""
    first, last = rows.iloc[0], rows.iloc[-1]
    factors = [float(last[name] / first[name]) if first[name] > 0 else None for name in ("objects", "size")]
    return well, int(first["time"]), int(last["time"]), factors[0], factors[1]


def follow(run: Run, names: str | None = None) -> Following:
    """Gather counts and median sizes by well and time.

    Parameters
    ----------
    names : str, optional
        Regular expression that finds `well` and `time` in an image's name, as named groups. Time points inside an image (a T
        axis) count too, and outweigh a time in its name.

    Raises
    ------
    SelectionError
        It is no regular expression, or has neither of the groups.
    """
    pattern = compiled(names or NAMES)
    parts = [part_of(each.record.image, each.table().to_pandas(), pattern) for each in run.results()]
    columns = ["well", "time", "objects", "size"]
    gathered = pd.concat([part for part, _ in parts]) if parts else pd.DataFrame(columns=columns)
    size = next((name for _, name in parts if name), "size")
    grouped = gathered.groupby(["well", "time"], as_index=False, sort=True).agg({"objects": "sum", "size": "median"})
    return Following(grouped[columns], size)


def compiled(names: str) -> re.Pattern[str]:
    """Refuse an expression that finds nothing."""
    try:
        pattern = re.compile(names)
    except re.error as error:
        raise SelectionError(f"{names!r} is no regular expression: {error}.") from None
    if not {"well", "time"} & set(pattern.groupindex):
        raise SelectionError(f'{names!r} names neither a "well" nor a "time": write them as (?P<well>...) and (?P<time>...).')
    return pattern


def part_of(image: str, objects: pd.DataFrame, pattern: re.Pattern[str]) -> tuple[pd.DataFrame, str | None]:
    """Count and measure one image, at each of its time points; an image without objects counts as none."""
    found = pattern.search(image)
    named = found.groupdict() if found else {}
    size = next((name for name in SIZES if name in objects), None)
    inside = "time" in objects and objects["time"].notna().any()
    times = objects["time"].astype(int) if inside else pd.Series(int(named.get("time") or 0), index=objects.index)
    sizes = objects[size] if size else pd.Series(float("nan"), index=objects.index)
    grouped = pd.DataFrame({"time": times, "value": sizes}).groupby("time")["value"].agg(objects="size", size="median").reset_index()
    if grouped.empty:
        grouped = pd.DataFrame({"time": [int(named.get("time") or 0)], "objects": [0], "size": [float("nan")]})
    return grouped.assign(well=named.get("well") or ""), size
