"""Cards of a run's results: what was found, the plate, the images that most deserve a look, and exports."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from segkit import exports
from segkit.boards.board import board_of
from segkit.boards.cards import Card, Facts, Stop, moment
from segkit.boards.looks import ImageLook, Look, kept_look
from segkit.boards.queue import counted, picture_url
from segkit.errors import SegkitError
from segkit.kit import Kit
from segkit.wells import plate_of

log = logging.getLogger(__name__)
#: Pictures that are drawn at once.
PICTURES, PICTURE_EDGE = 12, 256
#: Failures that stand before the worst results.
FAILURES = 4


class ResultsCard(Card):
    """A card of one run's results, which are read off the thread that serves the page."""

    def __init__(self, kit: Kit, run: int | None) -> None:
        self.kit = kit
        self.run = run
        self.look: Look | None = None
        self._fault: str | None = None

    def facts(self) -> Facts:
        """Return what is to be shown now: nothing but that it is being read, at first."""
        if self.run is None:
            return {"none": "No run has results yet."}
        if self._fault is not None:
            return {"fault": self._fault}
        return {"loading": True} if self.look is None else self.shown(self.look)

    def shown(self, look: Look) -> Facts:
        """Return what this card shows of a run."""
        raise NotImplementedError

    def follow(self, tell: Callable[[], None]) -> Stop:
        """Read the results, then tell."""
        if self.run is not None and self.look is None:
            threading.Thread(target=self._read, args=(tell,), name="segkit-results", daemon=True).start()
        return lambda: None

    def _read(self, tell: Callable[[], None]) -> None:
        try:
            self.look = kept_look(self.kit, self.run or 0)
        except SegkitError as error:
            self._fault = str(error)
        tell()


class PickCard(Card):
    """Which run is looked at."""

    kind = "pick"
    title = "Run"

    def __init__(self, kit: Kit, run: int | None) -> None:
        self.kit, self.run = kit, run

    def facts(self) -> Facts:
        """Return the runs that have results."""
        found = [run for run in board_of(self.kit).snapshot().runs if run.done or run.id == self.run]
        words = [{"run": run.id, "words": f"{run.segmenter} on {run.project}, {counted(run.done, 'image')}"} for run in found]
        return {"run": self.run, "runs": words}


class FoundCard(ResultsCard):
    """What a run found, in numbers."""

    kind = "lines"
    title = "What was found"

    def shown(self, look: Look) -> Facts:
        """Return the numbers."""
        record, objects = look.run.record, [each.objects for each in look.images]
        lines = {
            "Run": f"{record.id}: {record.segmenter} {record.version} on {record.project}",
            "Images": f"{record.done:,} of {record.total:,} done, {record.failed:,} failed",
            "Objects": f"{look.objects:,}; {np.median(objects):,.0f} in the median image" if objects else "none",
            "Empty images": f"{sum(number == 0 for number in objects):,}",
            "Computing": f"{np.mean([each.seconds for each in look.images]):.2g} s per image" if objects else "–",
        }
        parameters = ", ".join(f"{name} {value}" for name, value in record.parameters.items() if value is not None)
        return {"lines": [*lines.items(), ("Parameters", parameters or "as they come")], "at": moment(record.finished_at)}


class PlateCard(ResultsCard):
    """The wells of a plate, where images are named after them."""

    kind = "plate"
    title = "Plate"

    def shown(self, look: Look) -> Facts:
        """Return each well's numbers."""
        wells: dict[Any, list[ImageLook]] = defaultdict(list)
        for each in look.images:
            if each.well is not None:
                wells[each.well].append(each)
        if not wells:
            return {"none": "The images' names carry no wells, such as A01 in plate7_A01_f003.tif."}
        rows, columns = plate_of(wells)
        unit = look.size_name.removeprefix("area_").removeprefix("volume_")
        measures = [["objects", "objects per image"], ["size", f"median size, {unit}"], ["images", "images"]]
        return {
            "rows": rows,
            "columns": columns,
            "measures": measures,
            "wells": {well.name: numbers_of(held) for well, held in wells.items()},
        }


def numbers_of(images: list[ImageLook]) -> Facts:
    """Return the numbers of one well."""
    sizes = [each.size for each in images if np.isfinite(each.size)]
    size = float(np.median(sizes)) if sizes else None
    return {"objects": float(np.mean([each.objects for each in images])), "size": size, "images": len(images)}


class GalleryCard(ResultsCard):
    """The images that most deserve a look: those that failed, then those that differ most from the others."""

    kind = "gallery"
    title = "Worst first"

    def shown(self, look: Look) -> Facts:
        """Return the first pictures."""
        run = look.run
        failures = [{"title": job.image_name, "note": job.error or "", "picture": None} for job in run.failures(FAILURES).items]
        return {"tiles": failures, "total": len(look.images), "run": run.number}

    def answers(self) -> Mapping[str, Callable[[Facts], Facts]]:
        """Return what can be asked: more pictures."""
        return {"pictures": self._pictures}

    def _pictures(self, asked: Facts) -> Facts:
        first = max(0, int(asked["first"]))
        if self.look is None:
            return {"tiles": []}
        return {"tiles": [self._tile(self.look, each) for each in self.look.worst[first : first + PICTURES]]}

    def _tile(self, look: Look, each: ImageLook) -> Facts:
        note = counted(each.objects, "object")
        try:
            return {"title": each.name, "note": note, "picture": picture_url(look.run.result(each.image_id).preview(PICTURE_EDGE))}
        except SegkitError as error:
            return {"title": each.name, "note": f"{note}. {error}", "picture": None}


class ExportsCard(Card):
    """Buttons that write a run's results in the formats of other tools."""

    kind = "exports"
    title = "Exports"

    def __init__(self, kit: Kit, run: int | None, downloads: str | None = None) -> None:
        self.kit, self.run, self.downloads = kit, run, downloads

    def facts(self) -> Facts:
        """Return the formats."""
        if self.run is None:
            return {"none": "No run has results yet."}
        return {"formats": [{"name": name, "summary": summary} for name, summary in exports.formats().items()]}

    def answers(self) -> Mapping[str, Callable[[Facts], Facts]]:
        """Return what can be asked: to write one."""
        return {"build": self._build}

    def _build(self, asked: Facts) -> Facts:
        built = self.kit.run(self.run or 0).build(str(asked["format"]))
        if self.downloads is None:
            return {"said": f"Written to {built.path}"}
        return {"said": f"{built.bytes:,} bytes", "link": f"{self.downloads}{built.name}{'' if built.single else '.zip'}"}
