"""Correct the result of one image: read a region, change it, measure again, and save it as a new version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from getpass import getuser
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from segkit import jobs, results
from segkit.corrections.edits import Box, Edits, box_of, reaching_out
from segkit.corrections.rows import NewVersion, Version, commit, version
from segkit.database import Database
from segkit.errors import CorrectionError, NoResultError
from segkit.images import Image, Limits, Selection, open_image
from segkit.labels import LabelReader
from segkit.measure import measure_region, with_confidence
from segkit.settings import Settings
from segkit.tasks import summarise_frames

#: Longest edge of a region that is corrected at once, in pixels.
EDGE = 2048


class Correction:
    """The result of one image while a person corrects it. Nothing is stored before `save`, and nothing is ever overwritten.

    Parameters
    ----------
    database, settings
        Where results are.
    run_id, image_id : int
        Whose result.
    region : (row, column, rows, columns), optional
        The part that is corrected; default: all of it, or the middle `EDGE` x `EDGE` of a larger one.
    time : int
        Time point.

    Raises
    ------
    NoResultError
        There is none yet.
    CorrectionError
        It is a volume, or the region lies outside.

    Examples
    --------
    >>> correction = Correction(kit.database, kit.settings, run.number, image.id)     # doctest: +SKIP
    >>> correction.edits.merge([3, 4])                                               # doctest: +SKIP
    >>> correction.save("Anna", "touching cells")                                    # doctest: +SKIP
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        run_id: int,
        image_id: int,
        *,
        region: Sequence[int] | None = None,
        time: int = 0,
    ) -> None:
        self._database, self._settings = database, settings
        self.run_id, self.image_id, self.time = run_id, image_id, time
        with database.read() as connection:
            self.selection = Selection(**jobs.run(connection, run_id).selection)
        self._base = shown_result(database, run_id, image_id)
        self._result = results.open_result(results.locate(settings.home, self._base.path), self._base.checksum)
        if "Z" in self._result.axes:
            raise CorrectionError("Volumes cannot be corrected by hand yet; correct a run over single planes or a projection.")
        self._table = self._result.read_objects()
        self.shape: tuple[int, int] = (self._result.shape[-2], self._result.shape[-1])
        self.region = checked_region(self.shape, region)
        self._start()

    def _start(self) -> None:
        rows, columns = self._slices(self.region)
        labels = self._result.labels.read(0, self._in_time(rows, columns))
        labels = labels.reshape(labels.shape[-2:]).copy()
        row, column, high, wide = self.region
        open_sides = (row > 0, column > 0, row + high < self.shape[0], column + wide < self.shape[1])
        numbers = self._table["label"].to_numpy()
        self.edits = Edits(labels, next_label=int(numbers.max(initial=0)) + 1, locked=reaching_out(labels, open_sides))
        self._intensities, self._channels = self._read_intensities(rows, columns)
        self._measured: dict[int, pa.Table] = {}

    @property
    def objects(self) -> int:
        """How many objects the whole image would have, were it saved now."""
        return int(self._kept().num_rows) + sum(table.num_rows for table in self._measure_touched().values())

    def table(self) -> pa.Table:
        """Return the measurements of the region's objects, as they are now: one row per object, ascending by label."""
        present = pa.array(np.unique(self.edits.labels[self.edits.labels > 0]))
        kept = self._kept()
        inside = kept.filter(pc.is_in(kept["label"], present.cast(kept.schema.field("label").type)))
        return pa.concat_tables([inside, *self._measure_touched().values()]).sort_by("label").combine_chunks()

    def move(self, region: Sequence[int]) -> None:
        """Correct another region.

        Raises
        ------
        CorrectionError
            There are changes that are not saved, or the region lies outside.
        """
        if self.edits.changes:
            raise CorrectionError("Save or undo your changes before you go to another region.")
        self.region = checked_region(self.shape, region)
        self._start()

    def save(self, who: str = "", note: str = "") -> Version:
        """Store what was changed as a new version, which the run shows from now on.

        Parameters
        ----------
        who : str
            Who corrected; default: the name of the account.
        note : str
            Why, for those who come later.

        Returns
        -------
        Version
            With its number. The older versions stay, and `restore` brings them back.

        Raises
        ------
        CorrectionError
            Nothing was changed.
        CorrectionConflictError
            Somebody else saved in between.
        DiskFullError, NotWritableError
            The disk says so; nothing was changed.
        """
        if not self.edits.changes:
            raise CorrectionError("Nothing was changed, so there is nothing to save.")
        person = who.strip() or account()
        changes = [{"kind": each.kind, "objects": list(each.objects), "made": list(each.made)} for each in self.edits.changes]
        objects = self._all_objects()
        staging = results.staging(self._settings.home, self.run_id, self.image_id, self._base.attempt)
        provenance = self._result.provenance | {"corrected_by": person, "corrected_from": self._base.checksum, "corrections": changes}
        try:
            written = self._write(staging, objects, provenance)
            frames = self._result.shape[0] if "T" in self._result.axes else 1
            stored = staging.removeprefix(results.root(self._settings.home)).lstrip("/")
            new = NewVersion(
                person, note, changes, stored, written.checksum, written.objects, summarise_frames(objects, frames), written.bytes
            )
            with self._database.write() as connection:
                saved = commit(connection, self.run_id, self.image_id, new, checksum=self._base.checksum)
        except BaseException:
            results.discard(staging)
            raise
        self._reopen()
        return saved

    def _reopen(self) -> None:
        """Go on from the version that was saved."""
        self._base = shown_result(self._database, self.run_id, self.image_id)
        self._result = results.open_result(results.locate(self._settings.home, self._base.path), self._base.checksum)
        self._table = self._result.read_objects()
        self._start()

    # Objects

    def _kept(self) -> pa.Table:
        """Rows of objects that no edit has touched, at this time point."""
        touched = pa.array(sorted(self.edits.touched), self._table.schema.field("label").type)
        here = self._table
        if "time" in here.column_names:
            here = here.filter(pc.equal(here["time"], self.time))
        return here.filter(pc.invert(pc.is_in(here["label"], touched)))

    def _all_objects(self) -> pa.Table:
        """Rows of the whole image, of all time points."""
        parts = [self._kept(), *self._measure_touched().values()]
        if "time" in self._table.column_names:
            parts.append(self._table.filter(pc.not_equal(self._table["time"], self.time)))
        order = [("time", "ascending")] if "time" in self._table.column_names else []
        whole = pa.concat_tables(parts).sort_by([*order, ("label", "ascending")]).combine_chunks()
        return whole.replace_schema_metadata(self._table.schema.metadata)

    def _measure_touched(self) -> dict[int, pa.Table]:
        """Measure those objects again that the edits since the last time have changed."""
        stale = sorted(self.edits.stale)
        self.edits.stale.clear()
        for label in stale:
            self._measured.pop(label, None)
        present = np.isin(self.edits.labels, stale)
        if present.any():
            measured = self._measure(present, box_of(present))
            self._measured |= {label: measured.slice(place, 1) for place, label in enumerate(measured["label"].to_pylist())}
        return self._measured

    def _measure(self, present: NDArray[np.bool_], box: Box) -> pa.Table:
        part = (slice(box[0], box[2]), slice(box[1], box[3]))
        measured = measure_region(
            np.where(present[part], self.edits.labels[part], 0),
            self._intensities[part],
            origin=(self.region[0] + box[0], self.region[1] + box[1]),
            image_shape=self.shape,
            channels=self._channels,
            pixel_size_um=self._result.pixel_size_um,
        )
        if "confidence" in self._table.column_names:  # a person is sure
            measured = with_confidence(measured, np.ones(len(measured)))
        if "time" in self._table.column_names:
            measured = measured.append_column("time", pa.array(np.full(len(measured), self.time, np.int32)))
        plain = self._table.schema.remove_metadata()
        return measured.select(plain.names).replace_schema_metadata(None).cast(plain).replace_schema_metadata(self._table.schema.metadata)

    def _read_intensities(self, rows: slice, columns: slice) -> tuple[NDArray[Any], tuple[str, ...] | None]:
        limits = Limits(max_pixels=self._settings.max_pixels, max_decoded_pixels=self._settings.max_decoded_pixels)
        with open_image(self._base.uri, limits=limits) as image:
            return region_intensities(image, self.selection, rows, columns, self.time)

    # Labels

    def _write(self, staging: str, objects: pa.Table, provenance: Mapping[str, Any]) -> results.Written:
        """Copy the label image chunk by chunk, with the region's new pixels in it, and the objects beside it."""
        layout = self._result.labels.layout
        writer = results.LabelWriter.create(
            results.labels_path(staging),
            layout.shape,
            layout.axes,
            dtype="uint32" if self.edits.next_label > np.iinfo(np.uint16).max else layout.dtype,
            chunk=layout.chunk,
            pixel_size_um=layout.pixel_size_um,
            z_step_um=layout.z_step_um,
            time_step_s=layout.time_step_s,
            compression_level=self._settings.compression_level,
        )
        copy_labels(self._result.labels, writer, self._paste)
        writer.finish(self._settings.threads_per_worker)
        with results.ObjectWriter(results.objects_path(staging), provenance, self._settings.compression_level) as table:
            table.write(objects)
        return results.seal(staging, provenance)

    def _paste(self, place: tuple[slice, ...], labels: NDArray[np.int32]) -> None:
        """Put the region's pixels over a chunk of the whole image."""
        row, column, high, wide = self.region
        rows, columns = place[-2:]
        top, bottom = max(rows.start, row), min(rows.stop, row + high)
        left, right = max(columns.start, column), min(columns.stop, column + wide)
        if top >= bottom or left >= right:
            return
        new = self.edits.labels[top - row : bottom - row, left - column : right - column]
        inside = (slice(top - rows.start, bottom - rows.start), slice(left - columns.start, right - columns.start))
        if labels.ndim == 2:
            labels[inside] = new
        elif place[0].start <= self.time < place[0].stop:
            labels[self.time - place[0].start][inside] = new

    def _in_time(self, rows: slice, columns: slice) -> tuple[slice, ...]:
        return (slice(self.time, self.time + 1), rows, columns) if "T" in self._result.axes else (rows, columns)

    @staticmethod
    def _slices(region: Sequence[int]) -> tuple[slice, slice]:
        row, column, rows, columns = region
        return slice(row, row + rows), slice(column, column + columns)


def copy_labels(source: LabelReader, target: results.LabelWriter, change: Callable[[tuple[slice, ...], NDArray[np.int32]], None]) -> None:
    """Copy a label image chunk by chunk; `change` is given each chunk and its place, and may change it."""
    layout = source.layout
    for index in layout.grid_at(0):
        place = layout.place_of(0, index)
        labels = source.read(0, place).copy()
        change(place, labels)
        target.write(labels, [part.start for part in place])


def region_intensities(
    image: Image, selection: Selection, rows: slice, columns: slice, time: int
) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    """Read what intensities are measured in, of a region: every channel of the image, or the one plane there is."""
    info = image.info
    if "C" in info.axes and "S" not in info.axes:
        planes = [image.region(replace(selection, channel=number), rows, columns, time) for number in range(len(info.channels))]
        return np.stack(planes, axis=-1), info.channels
    if "S" in info.axes and "C" not in info.axes:
        return image.region(replace(selection, channel=None), rows, columns, time), info.channels
    return image.region(selection, rows, columns, time), None


def checked_region(shape: tuple[int, int], region: Sequence[int] | None) -> tuple[int, int, int, int]:
    """Return a region inside the image: the one that is asked for, or the middle.

    Raises
    ------
    CorrectionError
        It is too large, empty, or lies outside.

    Examples
    --------
    >>> checked_region((300, 5000), None)
    (0, 1476, 300, 2048)
    """
    if region is None:
        rows, columns = (min(size, EDGE) for size in shape)
        return (shape[0] - rows) // 2, (shape[1] - columns) // 2, rows, columns
    row, column, rows, columns = (int(each) for each in region)
    if not (0 < rows <= EDGE and 0 < columns <= EDGE and 0 <= row <= shape[0] - rows and 0 <= column <= shape[1] - columns):
        raise CorrectionError(f"A region to correct is at most {EDGE} × {EDGE} pixels and lies inside the image, which has {shape}.")
    return row, column, rows, columns


def shown_result(database: Database, run_id: int, image_id: int) -> results.Record:
    """Return the result that a run shows for an image.

    Raises
    ------
    NoResultError
        There is none.
    """
    after: str | None = None
    while True:
        with database.read() as connection:
            page = results.of_image(connection, image_id, 1000, after=after)
        for record in page.items:
            if record.run_id == run_id:
                return record
        if page.next is None:
            raise NoResultError
        after = page.next


def restore(database: Database, run_id: int, image_id: int, number: int, who: str = "", note: str = "") -> Version:
    """Let a run show an older version again, as a new version of its own.

    Raises
    ------
    UnknownVersionError
        There is none of this number.
    """
    with database.write() as connection:
        old = version(connection, run_id, image_id, number)
        changes = [{"kind": "restore", "objects": [], "made": [], "version": number}]
        shared = {name: getattr(old, name) for name in ("path", "checksum", "objects", "summary", "bytes")}
        new = NewVersion(who=who.strip() or account(), note=note, changes=changes, **shared)
        return commit(connection, run_id, image_id, new, checksum=None)


def account() -> str:
    """Return the name of the account that runs this process."""
    try:
        return getuser()
    except (OSError, KeyError):
        return "unknown"
