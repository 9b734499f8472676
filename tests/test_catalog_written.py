"""Pages as JSON: what PostgreSQL writes says the same as the records, field by field, on every page."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import pytest

from segkit import catalog
from segkit.catalog import Unreadable
from segkit.database import Database
from segkit.errors import CursorError, PageError, UnknownProjectError
from segkit.telemetry import counted
from tests.images_in_a_project import image_info

ODD = 'a "quoted" \\ name,\twith\nlines, Zürich 細胞 \U0001f52c </script>.tif'


@pytest.fixture
def project(database: Database) -> catalog.Project:
    """A project with images of every form, and complaints."""
    infos = [image_info(number) for number in range(7)]
    infos[1] = replace(infos[1], name=ODD, channels=("α", '"'), pixel_size_um=0.1 + 0.2, z_step_um=1e-7, time_step_s=5e22)
    infos[2] = replace(infos[2], channels=(), pixel_size_um=None, bytes=2**53 - 1)
    with database.write() as connection:
        made = catalog.ensure_project(connection, "spheroids")
        catalog.add(connection, made.id, [*infos, Unreadable("file:///bad.tif", "bad.tif", "It is cut short.")])
        return made


def record_of(value: Any) -> dict[str, Any]:
    fields = asdict(value)
    return {name: list(field) if isinstance(field, tuple) else field for name, field in fields.items()}


def read(item: dict[str, Any]) -> dict[str, Any]:
    assert item["created_at"].endswith("Z")
    return item | {"created_at": datetime.fromisoformat(item["created_at"])}


@pytest.mark.parametrize("limit", [1, 3, 7, 8, 100])
@pytest.mark.parametrize("unreadable", [False, True])
def test_images_say_what_the_records_say(database: Database, project: catalog.Project, limit: int, unreadable: bool) -> None:
    after: str | None = None
    with database.read() as connection:
        while True:
            page = catalog.images(connection, project.id, limit, after=after, unreadable=unreadable)
            with counted(database.engine) as seen:
                written = json.loads(catalog.images_json(connection, project.id, limit, after=after, unreadable=unreadable))
            assert seen.count == 1
            assert [read(item) for item in written["items"]] == [record_of(item) for item in page.items]
            assert list(written["items"][0]) == list(record_of(page.items[0]))
            assert (written["total"], written["next"]) == (page.total, page.next)
            after = page.next
            if after is None:
                return


def test_projects_say_what_the_records_say(database: Database, project: catalog.Project) -> None:
    with database.write() as connection:
        for number in range(5):
            catalog.create_project(connection, f"project {number} é")
    with database.read() as connection:
        for options in ({"limit": 2}, {"limit": 2, "offset": 3}, {"limit": 6}, {"limit": 7}, {"offset": 100}):
            page = catalog.projects(connection, **options)  # type: ignore[arg-type]
            written = json.loads(catalog.projects_json(connection, **options))  # type: ignore[arg-type]
            assert [read(item) for item in written["items"]] == [record_of(item) for item in page.items]
            assert (written["total"], written["next"]) == (page.total, page.next)


def test_an_empty_page_has_its_total(database: Database, project: catalog.Project) -> None:
    with database.read() as connection:
        assert json.loads(catalog.images_json(connection, project.id, offset=50)) == {"items": [], "total": 8, "next": None}
    with database.write() as connection:
        empty = catalog.create_project(connection, "empty").id
    with database.read() as connection:
        assert json.loads(catalog.images_json(connection, empty)) == {"items": [], "total": 0, "next": None}


def test_what_cannot_be_asked_is_refused_alike(database: Database, project: catalog.Project) -> None:
    with database.read() as connection:
        with pytest.raises(UnknownProjectError):
            catalog.images_json(connection, 999)
        with pytest.raises(PageError):
            catalog.images_json(connection, project.id, 0)
        with pytest.raises(CursorError):
            catalog.images_json(connection, project.id, after="x")
        with pytest.raises(CursorError):
            catalog.projects_json(connection, after="x")
