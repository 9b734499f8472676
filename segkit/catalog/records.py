"""What travels out of the catalog: frozen records."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class Project:
    """A named set of images."""

    id: int
    name: str
    created_at: datetime
    revision: int  #: another number after every change that a list shows
    images: int  #: all of them, unreadable ones included
    unreadable: int


@dataclass(frozen=True)
class Image:
    """One registered file or OME-Zarr array. One that cannot be read has an `error` and no `format`, `axes` or `shape`."""

    id: int
    project_id: int
    content_hash: str
    uri: str
    name: str
    format: str | None
    axes: str | None
    shape: tuple[int, ...] | None
    dtype: str | None
    channels: tuple[str, ...] | None
    pixel_size_um: float | None
    z_step_um: float | None
    time_step_s: float | None
    bytes: int
    error: str | None  #: why it cannot be read
    created_at: datetime


@dataclass(frozen=True)
class Unreadable:
    """A file that was to be registered and cannot be read."""

    uri: str
    name: str
    reason: str  #: in words that a person can act on


@dataclass(frozen=True)
class Added:
    """What registering did."""

    added: int = 0  #: readable images that were not there before
    duplicates: int = 0  #: readable images that were there already, or twice among the files, by their contents
    unreadable: int = 0  #: files that cannot be read; each is listed with its reason
    rescaled: int = 0  #: of the duplicates, those that took a pixel size or step that was given now
    image_ids: tuple[int, ...] = field(default=(), repr=False)  #: all readable images of these files, new or not; only `register` tells

    def __add__(self, other: Added) -> Added:
        return Added(
            self.added + other.added,
            self.duplicates + other.duplicates,
            self.unreadable + other.unreadable,
            self.rescaled + other.rescaled,
            self.image_ids + other.image_ids,
        )
