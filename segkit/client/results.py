"""`RemoteResult`: what a done job committed for one image, its files fetched when they are asked for and checked as they are at home."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter

from segkit import overlays, previews, results
from segkit.client import pictures
from segkit.client.downloads import download
from segkit.client.faults import OnlyThere
from segkit.errors import DownloadError, SegkitError
from segkit.files import beside, faults_in_words
from segkit.images import Selection
from segkit.pages import Page
from segkit.results import Record
from segkit.results.places import LABELS, OBJECTS, PROVENANCE

if TYPE_CHECKING:
    from segkit.client.projects import RemoteImage
    from segkit.client.runs import RemoteRun

#: Files of a result that are fetched at once.
FETCHERS = 6
#: A larger one is written to the disk as it comes.
IN_MEMORY = 2**24


@dataclass(frozen=True)
class File:
    """A file of a result."""

    name: str
    bytes: int


FILES = TypeAdapter(Page[File])


@dataclass(frozen=True)
class RemoteResult(OnlyThere):
    """What a done job committed for one image."""

    run: RemoteRun
    record: Record

    only_there: ClassVar[dict[str, str]] = {
        "path": "The result lies with the service; `download` copies it.",
        "overlay": "Draw it with `segkit.overlays.draw(pixels, result.labels())`.",
    }

    @property
    def image(self) -> RemoteImage:
        """The image that was segmented."""
        return self.run.kit.image(self.record.image_id)

    @property
    def objects(self) -> int:
        """How many objects were found."""
        return self.record.objects

    @property
    def seconds(self) -> float:
        """Seconds of computing."""
        return self.record.seconds

    @property
    def summary(self) -> dict[str, Any]:
        """Counts and distributions of the image's objects."""
        return self.record.summary

    def labels(self, level: int = 0) -> NDArray[np.int32]:
        """Read the label image: the shape of the image's plane, planes or time points; 0 is background.

        Parameters
        ----------
        level : int
            0 is full size; each further level has half the rows and columns, and only its bytes are fetched.

        Raises
        ------
        SelectionError
            There is no such level.
        ResultCorruptError
            What came is not what was written.
        """
        with self._fetched() as path:
            self._fetch(self._level(level), Path(path))
            return results.open_result(path, self.record.checksum).labels.read(level)

    def table(self) -> pa.Table:
        """Read the object table, one row per object."""
        with self._fetched(OBJECTS) as path:
            return results.open_result(path, self.record.checksum).read_objects()

    def preview(self, edge: int = previews.EDGE, time: int = 0) -> NDArray[np.uint8]:
        """Draw the objects' outlines over the image, `edge` pixels on the longer side: (rows, columns, 3) uint8."""
        asked = Selection(**self.run.record.selection)
        z = "max" if asked.z == "volume" else asked.z
        picture = pictures.thumbnail(self.run.kit.connection, self.record.image_id, edge, channel=asked.channel, z=z, time=time)
        with self._fetched() as path:
            result = results.open_result(path, self.record.checksum)
            layout = result.labels.layout
            level = max((each for each in range(layout.levels) if max(layout.shape_at(each)[-2:]) >= edge), default=0)
            self._fetch(self._level(level), Path(path))
            region = tuple(slice(time, time + 1) if axis == "T" else slice(None) for axis in result.axes)
            labels = result.labels.read(level, region)
        return overlays.draw(picture, previews.picked(labels.reshape(-1, *labels.shape[-2:]).max(axis=0), picture.shape[:2]))

    def tile(self) -> previews.Tile:
        """Show the result small, as one of a gallery; when its image cannot be read any more, the reason."""
        try:
            return previews.Tile(self.record.image, f"{self.objects} objects", self.preview())
        except SegkitError as error:
            return previews.Tile(self.record.image, f"{self.objects} objects. {error}")

    def files(self) -> tuple[File, ...]:
        """List the files of the result."""
        return self._files

    def download(self, out: str | Path, *, overwrite: bool = False) -> Path:
        """Download the whole result as a folder: `labels.ome.zarr`, `objects.parquet`, `provenance.json`. Every byte is checked.

        Raises
        ------
        OutputExistsError
            `out` is there already and `overwrite` is false.
        ResultCorruptError
            What came is not what was written.
        """
        with beside(out, overwrite=overwrite) as part:
            self._fetch(self.files(), part)
            results.verify(str(part), self.record.checksum)
        return Path(out)

    @cached_property
    def _files(self) -> tuple[File, ...]:
        return self.run.kit.connection.get(FILES, self._place).items

    @property
    def _place(self) -> str:
        return f"/api/download/runs/{self.record.run_id}/images/{self.record.image_id}"

    @contextmanager
    def _fetched(self, *names: str) -> Iterator[str]:
        """Fetch the documents of the result, and these files, into a folder of this block."""
        wanted = (PROVENANCE, f"{LABELS}/zarr.json", *names)
        with TemporaryDirectory(prefix="segkit-") as folder:
            self._fetch((file for file in self.files() if file.name in wanted), Path(folder))
            yield folder

    def _level(self, level: int) -> list[File]:
        """List the files of a level of the label image."""
        return [file for file in self.files() if file.name.startswith(f"{LABELS}/{level}/")]

    def _fetch(self, files: Iterable[File], folder: Path) -> None:
        with ThreadPoolExecutor(FETCHERS, "segkit-fetch") as pool:
            for _ in pool.map(lambda file: self._fetch_one(file, folder), files):
                pass

    def _fetch_one(self, file: File, folder: Path) -> None:
        place = folder / file.name
        if not place.resolve().is_relative_to(folder.resolve()):
            raise DownloadError(f"The service names a file outside the result: {file.name!r}.")
        path = f"{self._place}/{quote(file.name)}"
        with faults_in_words(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            if file.bytes > IN_MEMORY:
                download(self.run.kit.connection, path, place, bar=False)
            else:
                place.write_bytes(self.run.kit.connection.request("GET", path).content)
