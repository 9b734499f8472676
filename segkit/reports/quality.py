"""One run's quality report: counts, distributions, worst and best images, failures with reasons, provenance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit import previews
from segkit.reports.pieces import MOST_ROWS, Piece, facts, histogram, plots, table
from segkit.runs import Run, mean_confidence, typical_size

#: Distributions are drawn of so many objects at most, so that a report of millions needs no more memory.
MOST_OBJECTS = 1_000_000
#: What is worth a plot, where the run measured it.
MEASURED = ("area_um2", "area", "volume_um3", "volume", "circularity", "solidity", "eccentricity", "intensity_mean")


@dataclass(frozen=True)
class Look:
    """One image of a run as a report sees it."""

    image: str
    image_id: int
    objects: int
    size: float  #: the objects' median area or volume; NaN when there is none
    touching_edge: int
    seconds: float
    confidence: float = float("nan")  #: how sure the segmenter was of the objects; NaN where it does not say


def looks_of(run: Run) -> list[Look]:
    """Go through the results of a run, without reading any image."""
    return [
        Look(
            each.record.image,
            each.record.image_id,
            each.objects,
            typical_size(each.summary),
            int(each.summary.get("touching_edge") or 0),
            each.seconds,
            mean_confidence(each.summary),
        )
        for each in run.results()
    ]


@dataclass(frozen=True)
class Report:
    """A run's quality report; each property is one piece of it."""

    run: Run

    @cached_property
    def _looks(self) -> list[Look]:
        return looks_of(self.run)

    @property
    def summary(self) -> Piece:
        """The run in figures."""
        state = self.run.progress()
        counts = np.array([look.objects for look in self._looks])
        known = {
            "project": self.run.record.project,
            "images": state.total,
            "done": state.done,
            "failed": state.failed,
            "cancelled": state.cancelled or None,
            "still to do": state.left or None,
            "objects": state.objects,
            "objects per image, median": float(np.median(counts)) if counts.size else None,
            "images in which nothing was found": int((counts == 0).sum()) if counts.size else None,
            "seconds of computing": sum(look.seconds for look in self._looks),
        }
        return facts(f"Run {self.run.number}: {self.run.segmenter} {self.run.record.version}", known)

    @property
    def counts(self) -> Piece:
        """Objects of each image, most first."""
        rows = [(look.image, look.objects, look.size, look.touching_edge, look.seconds) for look in self._looks]
        rows.sort(key=lambda row: -row[1])
        return table(("image", "objects", "median size", "touching the edge", "seconds"), rows)

    @property
    def distributions(self) -> Piece:
        """How counts and measurements are distributed; the line is the median."""
        draws = [("objects per image", histogram(np.array([float(look.objects) for look in self._looks]), "objects"))]
        draws += [(name, histogram(values, name)) for name, values in self._measured().items()]
        return plots(f"Run {self.run.number}", draws)

    def _measured(self) -> dict[str, NDArray[np.float64]]:
        if not self._looks:
            return {}
        objects = self.run.dataset()
        there = [name for name in MEASURED if name in objects.schema.names]
        found = objects.head(MOST_OBJECTS, columns=there)
        return {name: found[name].to_numpy().astype(float) for name in there}

    def worst(self, count: int = 6) -> previews.Gallery:
        """The images that most deserve a look: failed ones first, then those that differ most from the rest."""
        return self.run.worst(count)

    def best(self, count: int = 3) -> previews.Gallery:
        """The images that are most like the rest of the run."""
        order = previews.oddest(
            [(look.objects, look.size) for look in self._looks], len(self._looks), [look.confidence for look in self._looks]
        )
        chosen = [self._looks[place].image_id for place in order[::-1][:count]]
        return previews.Gallery(tuple(self.run.result(number).tile() for number in chosen))

    @property
    def failures(self) -> Piece:
        """What failed, each with its reason."""
        found = self.run.failures(MOST_ROWS)
        return table(("image", "attempts", "reason"), [(job.image_name, job.attempt, job.error) for job in found.items])

    @property
    def provenance(self) -> Piece:
        """Everything that is needed to do it again."""
        record = self.run.record
        known: dict[str, Any] = {
            "segmenter": f"{record.segmenter} {record.version}",
            "parameters": record.parameters,
            "pixels": {name: value for name, value in record.selection.items() if value is not None},
            "segkit": record.segkit_version,
            "notebook": record.notebook,
            "asked for": f"{record.created_at:%Y-%m-%d %H:%M:%S} UTC",
            "ended": f"{record.finished_at:%Y-%m-%d %H:%M:%S} UTC" if record.finished_at else None,
            "database": self.run.kit.database.dialect,
        }
        return facts("Provenance", known)


def report(run: Run) -> Report:
    """Make the quality report of a run."""
    return Report(run)
