"""Correct objects by hand: merge, split, draw, paint, erase, delete, undo; saved as a new version of the result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import traitlets

from segkit import corrections, kit
from segkit.errors import CorrectionError
from segkit.widgets import assets
from segkit.widgets.answering import Answer, Asked
from segkit.widgets.stage import Stage, readable, worded
from segkit.widgets.tiles import HeldLabels, Measurements

#: Columns of the table, those that there are, in this order.
TABLE = ("area_um2", "area_px", "equivalent_diameter_um", "equivalent_diameter_px", "circularity", "intensity_mean")
MOST_COLUMNS = 5


class Editor(Stage):
    """Corrects the objects that a run found in an image. Nothing is stored before it is saved, and nothing is ever overwritten.

    Parameters
    ----------
    run : kit.Run
        Whose result is corrected.
    image : kit.Image
        Of which image.
    region : (row, column, rows, columns), optional
        The part of a large image that is corrected; default: all of it, or the middle 2048 x 2048.
    time : int
        Time point.
    who : str
        Who corrects; can be changed on the page. Default: the name of the account.

    Raises
    ------
    NoResultError
        The run has no result for this image yet.
    CorrectionError
        It is a volume, or the region lies outside.

    Examples
    --------
    >>> editor = Editor(run, image)                          # doctest: +SKIP
    >>> editor.merge([3, 4]); editor.save("Anna", "one cell")   # doctest: +SKIP
    """

    _esm = assets.script("editor.js")

    region = traitlets.List(traitlets.Int(), help="Row, column, rows and columns of what is corrected.").tag(sync=True)
    selected = traitlets.List(traitlets.Int(), help="Objects that are chosen.").tag(sync=True)
    changes = traitlets.List(traitlets.Unicode(), help="What was done since the last save.").tag(sync=True)
    can_undo = traitlets.Bool(False).tag(sync=True)
    can_redo = traitlets.Bool(False).tag(sync=True)
    who = traitlets.Unicode(help="Who corrects.").tag(sync=True)
    columns_shown = traitlets.List(traitlets.Unicode(), help="Headings of the table.").tag(sync=True)
    listed = traitlets.Int(0, help="Rows of the table: objects of the region.").tag(sync=True)
    versions = traitlets.List(traitlets.Dict(), help="Versions of the result, oldest first.").tag(sync=True)

    def __init__(
        self,
        run: kit.Run,
        image: kit.Image,
        *,
        region: Sequence[int] | None = None,
        time: int = 0,
        who: str = "",
        height: int = 480,
    ) -> None:
        self._run, self._image = run, image
        self._lock = threading.RLock()
        opened = run.kit
        self._correction = corrections.Correction(opened.database, opened.settings, run.number, image.id, region=region, time=time)
        super().__init__(image, self._correction.selection, time, height=height, objects=self._correction.objects, who=who)
        self._follow()

    def answers(self) -> Mapping[str, Callable[[Asked, Sequence[Any]], Answer]]:
        """Return what the page asks for."""
        asks = {"edit": self._edit, "save": self._save, "region": self._move, "rows": self._rows, "place": self._place, "find": self._find}
        return {**super().answers(), **asks}

    # What a person, or a script, does. Places are (row, column) of the whole image.

    def merge(self, objects: Sequence[int]) -> None:
        """Make one object of several."""
        self._do(lambda edits: edits.merge(objects))

    def split(self, label: int, line: Sequence[Sequence[float]]) -> None:
        """Cut an object along a line."""
        self._do(lambda edits: edits.split(label, self._local(line)))

    def draw(self, outline: Sequence[Sequence[float]]) -> None:
        """Make a new object of what an outline encloses."""
        self._do(lambda edits: edits.draw(self._local(outline)))

    def paint(self, label: int, stroke: Sequence[Sequence[float]], radius: float) -> None:
        """Add what a brush covers to an object."""
        self._do(lambda edits: edits.paint(label, self._local(stroke), radius))

    def erase(self, stroke: Sequence[Sequence[float]], radius: float, label: int | None = None) -> None:
        """Take what a brush covers away, from one object or from all."""
        self._do(lambda edits: edits.erase(self._local(stroke), radius, label))

    def delete(self, objects: Sequence[int]) -> None:
        """Make objects background."""
        self._do(lambda edits: edits.delete(objects))

    def undo(self) -> None:
        """Take the last change back."""
        self._do(lambda edits: edits.undo())

    def redo(self) -> None:
        """Do again what was undone last."""
        self._do(lambda edits: edits.redo())

    def save(self, who: str = "", note: str = "") -> corrections.Version:
        """Store the changes as a new version, which the run shows from now on.

        Raises
        ------
        CorrectionError
            Nothing was changed.
        CorrectionConflictError
            Somebody else saved in between.
        """
        with self._lock:
            saved = self._correction.save(who or self.who, note)
            self._follow()
        self.say(f"Version {saved.version} is saved: {saved.objects} objects, by {saved.who}. The older versions stay.")
        return saved

    def move(self, region: Sequence[int]) -> None:
        """Correct another region of the image."""
        with self._lock:
            self._correction.move(region)
            self.selected = []
            self._follow()

    def table(self) -> pa.Table:
        """Return the measurements of the region's objects as they are now."""
        with self._lock:
            return self._correction.table()

    # How

    def _local(self, points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
        """Turn places of the whole image into those of the region."""
        top, left = self._correction.region[:2]
        try:
            return [(float(row) - top, float(column) - left) for row, column in points]
        except (TypeError, ValueError):
            raise CorrectionError("A line or outline is a list of places (row, column), at least one.") from None

    def _do(self, call: Callable[[corrections.Edits], Any]) -> None:
        with self._lock:
            call(self._correction.edits)
            self._follow()
        self.say(self.changes[-1] if self.changes else "")

    def _follow(self) -> None:
        """Show what is there now."""
        edits, region = self._correction.edits, self._correction.region
        table = self._correction.table()
        self._labels = HeldLabels(edits.labels, region[:2], self._correction.shape)
        self._measured = Measurements(table.drop_columns("time") if "time" in table.column_names else table)
        there = set(table["label"].to_pylist())
        step = edits.last
        with self.hold_sync():
            self.region = list(region)
            self.objects = self._correction.objects
            self.changes = [str(change) for change in edits.changes]
            self.can_undo, self.can_redo = edits.can_undo, edits.can_redo
            self.selected = [label for label in self.selected if label in there]
            self.columns_shown = ["object", *(worded(name) for name in self._columns())]
            self.listed = table.num_rows
            self.versions = self._history()
        box = None if step is None else [step.box[0] + region[0], step.box[1] + region[1], step.box[2] + region[0], step.box[3] + region[1]]
        self.tell("labels", box=box)
        self.tell("rows")

    def _history(self) -> list[dict[str, Any]]:
        with self._run.kit.database.read() as connection:
            known = corrections.history(connection, self._run.number, self._image.id)
        return [
            {"version": each.version, "who": each.who, "when": f"{each.created_at:%Y-%m-%d %H:%M} UTC", "objects": each.objects}
            | {"note": each.note, "changes": len(each.changes)}
            for each in known
        ]

    def _columns(self) -> list[str]:
        measured = self._measured
        there = [] if measured is None else measured.table.column_names
        chosen = [name for name in TABLE if name in there]
        chosen += [name for name in there if name.startswith("intensity_mean_")]
        return chosen[:MOST_COLUMNS]

    # What the page asks

    def _edit(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        calls: dict[str, Callable[[], None]] = {
            "merge": lambda: self.merge(asked["objects"]),
            "split": lambda: self.split(asked["objects"][0], asked["points"]),
            "draw": lambda: self.draw(asked["points"]),
            "paint": lambda: self.paint(asked["objects"][0], asked["points"], asked["radius"]),
            "erase": lambda: self.erase(asked["points"], asked["radius"], (asked.get("objects") or [None])[0]),
            "delete": lambda: self.delete(asked["objects"]),
            "undo": self.undo,
            "redo": self.redo,
        }
        calls[asked["do"]]()
        return {"changes": len(self.changes)}, []

    def _save(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        return {"version": self.save(str(asked.get("who", "")), str(asked.get("note", ""))).version}, []

    def _move(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        _, _, rows, columns = self._correction.region
        whole = self._correction.shape
        row, column = (
            min(max(0, int(place) - size // 2), most - size)
            for place, size, most in ((asked["row"], rows, whole[0]), (asked["column"], columns, whole[1]))
        )
        self.move((row, column, rows, columns))
        return {}, []

    def _rows(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        if self._measured is None:
            return {"rows": []}, []
        part = self._measured.table.slice(int(asked["start"]), min(int(asked["count"]), 1000))
        names = self._columns()
        rows = [[row["label"], *(readable(row).get(name) for name in names)] for row in part.to_pylist()]
        return {"rows": rows}, []

    def _place(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        """Tell where an object lies."""
        row = {} if self._measured is None else self._measured.of(int(asked["label"]))
        return {"row": row.get("centroid_row"), "column": row.get("centroid_column")}, []

    def _find(self, asked: Asked, buffers: Sequence[Any]) -> Answer:
        """Tell in which row of the table an object stands."""
        labels = [] if self._measured is None else self._measured.table["label"].to_pylist()
        return {"place": labels.index(asked["label"]) if asked["label"] in labels else None}, []
