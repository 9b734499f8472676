"""Images as the catalog is told of them, and its counters compared with its rows."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import func, select

from segkit import catalog
from segkit.catalog import Added, Unreadable
from segkit.database import Database
from segkit.images import ImageInfo
from segkit.schema import Image, Project


def info(number: int, **changes: object) -> ImageInfo:
    whole = ImageInfo(
        uri=f"/plate/{number:06}.tif",
        name=f"{number:06}.tif",
        format="tiff",
        axes="CYX",
        shape=(2, 512, 640),
        dtype="uint16",
        channels=("DAPI", "GFP"),
        pixel_size_um=0.325,
        z_step_um=None,
        time_step_s=None,
        bytes=1_310_720,
        content_hash=f"{number:040x}",
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def bad(number: int, reason: str = "It is cut short.") -> Unreadable:
    return Unreadable(f"/plate/{number:06}.tif", f"{number:06}.tif", reason)


def add(database: Database, project: catalog.Project, infos: object) -> Added:
    with database.write() as connection:
        return catalog.add(connection, project.id, infos)  # type: ignore[arg-type]


def look(database: Database, name: str = "spheroids") -> catalog.Project:
    with database.read() as connection:
        return catalog.project(connection, name)


def counters_are_exact(database: Database, project: catalog.Project) -> bool:
    """Compare the counters with the rows, by a count of our own."""
    counts = select(func.count(), func.count(Image.error)).where(Image.project_id == project.id)
    kept = select(Project.images, Project.unreadable).where(Project.id == project.id)
    with database.read() as connection:
        return tuple(connection.execute(counts).one()) == tuple(connection.execute(kept).one())
