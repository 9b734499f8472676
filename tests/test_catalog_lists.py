"""Lists of the catalog: pages in one statement, what deleting leaves of them, and cached ones that are never stale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select

from segkit import catalog
from segkit.catalog import Catalog
from segkit.database import Database, now_sql, open_database
from segkit.errors import CursorError, PageError, UnknownImageError, UnknownProjectError
from segkit.schema import Image, Job, Project, Result, Run
from segkit.settings import Settings
from segkit.telemetry import counted
from tests.catalog_rows import add, bad, info, look


@pytest.fixture
def project(database: Database) -> catalog.Project:
    with database.write() as connection:
        return catalog.create_project(connection, "spheroids")


# Pages of images


@pytest.fixture
def full(database: Database, project: catalog.Project) -> catalog.Project:
    add(database, project, [info(number) for number in range(23)])
    add(database, project, [bad(100), bad(101)])
    return look(database)


def test_pages_are_one_statement_each_and_meet_without_gap(database: Database, full: catalog.Project) -> None:
    seen_ids: list[int] = []
    after: str | None = None
    while True:
        with counted(database.engine) as seen, database.read() as connection:
            page = catalog.images(connection, full.id, 4, after=after)
        assert seen.count == 1
        assert page.total == 25
        seen_ids += [image.id for image in page.items]
        after = page.next
        if after is None:
            break
    assert seen_ids == sorted(seen_ids, reverse=True)
    assert len(seen_ids) == 25


def test_images_added_meanwhile_do_not_shift_pages(database: Database, full: catalog.Project) -> None:
    with database.read() as connection:
        first = catalog.images(connection, full.id, 10)
    add(database, full, [info(number) for number in range(500, 510)])
    with database.read() as connection:
        second = catalog.images(connection, full.id, 10, after=first.next)
    assert second.items[0].id == first.items[-1].id - 1
    assert second.total == 35


def test_offsets_give_the_same_rows(database: Database, full: catalog.Project) -> None:
    with database.read() as connection:
        whole = catalog.images(connection, full.id, 25)
        assert catalog.images(connection, full.id, 5, offset=7).items == whole.items[7:12]
        beyond = catalog.images(connection, full.id, 5, offset=1000)
    assert whole.next is None
    assert beyond.items == ()
    assert beyond.total == 25


def test_only_unreadable_ones(database: Database, full: catalog.Project) -> None:
    with database.read() as connection:
        first = catalog.images(connection, full.id, 1, unreadable=True)
        second = catalog.images(connection, full.id, 1, after=first.next, unreadable=True)
    assert (first.total, second.total, second.next) == (2, 2, None)
    assert {first.items[0].name, second.items[0].name} == {"000100.tif", "000101.tif"}


LIMITS = [{"limit": 0}, {"limit": 1001}, {"limit": -1}, {"limit": 10, "offset": -1}, {"limit": 10, "offset": 100_001}]


@pytest.mark.parametrize("page", LIMITS)
def test_pages_that_cannot_be(database: Database, full: catalog.Project, page: dict[str, int]) -> None:
    with database.read() as connection, pytest.raises(PageError):
        catalog.images(connection, full.id, **page)  # type: ignore[arg-type]


def test_a_cursor_and_an_offset_exclude_each_other(database: Database, full: catalog.Project) -> None:
    with database.read() as connection:
        after = catalog.images(connection, full.id, 1).next
        with pytest.raises(PageError, match="not both"):
            catalog.images(connection, full.id, 1, after=after, offset=2)


def test_a_cursor_that_was_not_given_out(database: Database, full: catalog.Project) -> None:
    with database.read() as connection:
        good = catalog.images(connection, full.id, 1).next
        assert good is not None
        other_letter = "B" if good[8] != "B" else "C"
        changed = [good[:-2], good + "AAAA", good[1:], good[:8] + other_letter + good[9:], "", "é", "../../etc"]
        for cursor in changed:
            with pytest.raises(CursorError):
                catalog.images(connection, full.id, 1, after=cursor)
        for other in ({"unreadable": True}, {"project_id": full.id + 1}):
            with pytest.raises((CursorError, UnknownProjectError)):
                catalog.images(connection, **({"project_id": full.id, "limit": 1, "after": good} | other))  # type: ignore[arg-type]


def test_images_of_no_project(database: Database) -> None:
    with database.read() as connection:
        with pytest.raises(UnknownProjectError):
            catalog.images(connection, 99)
        with pytest.raises(UnknownImageError, match="no image 99"):
            catalog.image(connection, 99)


# Deleting


def test_deleting_removes_all_rows_of_the_project_and_no_other(database: Database, full: catalog.Project) -> None:
    with database.write() as connection:
        other = catalog.create_project(connection, "other")
        catalog.add(connection, other.id, [info(1)])
        run_ids = [queue_a_run(connection, project_id) for project_id in (full.id, full.id, other.id)]
    with database.write() as connection:
        assert catalog.delete_project(connection, full.id) == run_ids[:2]
    with database.read() as connection:
        assert [connection.scalar(select(func.count()).select_from(table)) for table in (Project, Image, Run, Job, Result)] == [1] * 5
    with database.write() as connection:
        assert catalog.delete_project(connection, full.id) == []


def queue_a_run(connection: object, project_id: int) -> int:
    """A run with one job that is done and has a result, written row by row."""
    execute = connection.execute  # type: ignore[attr-defined]
    image_id = execute(select(Image.id).where(Image.project_id == project_id).limit(1)).scalar_one()
    number = execute(select(func.count()).select_from(Run)).scalar_one()
    run = {"project_id": project_id, "fingerprint": str(number), "segmenter": "nuclei", "version": "1", "segkit_version": "1"}
    run_id: int = execute(insert(Run).values(parameters={}, selection={}, created_at=now_sql(), **run)).inserted_primary_key[0]
    job = {"run_id": run_id, "image_id": image_id, "status": "done", "max_attempts": 3, "not_before": now_sql(), "created_at": now_sql()}
    job_id = execute(insert(Job).values(job)).inserted_primary_key[0]
    result = {"job_id": job_id, "run_id": run_id, "image_id": image_id, "attempt": 1, "path": "p", "checksum": "c", "objects": 1}
    execute(insert(Result).values(seconds=1.0, bytes=1, summary={}, created_at=now_sql(), **result))
    return run_id


def test_numbers_are_not_given_twice(database: Database, full: catalog.Project) -> None:
    """A worker that still holds a job of a deleted project must not meet its number again."""
    with database.read() as connection:
        newest = catalog.images(connection, full.id, 1).items[0].id
    with database.write() as connection:
        catalog.delete_project(connection, full.id)
        again = catalog.create_project(connection, "spheroids")
        catalog.add(connection, again.id, [info(1)])
    with database.read() as connection:
        assert again.id > full.id
        assert catalog.images(connection, again.id).items[0].id > newest


# Cached lists


@pytest.fixture
def cached(database: Database, database_settings: Settings) -> Iterator[Catalog]:
    with closing(Catalog(database, database_settings)) as opened:
        yield opened


def test_cached_lists_are_the_lists(database: Database, full: catalog.Project, cached: Catalog) -> None:
    with database.read() as connection:
        images, projects = catalog.images(connection, full.id, 5), catalog.projects(connection, 5)
    for _ in range(2):
        assert cached.images(full.id, 5) == images
        assert cached.projects(5) == projects
        assert cached.images(full.id, 5, after=images.next).items[0].id == images.items[-1].id - 1
        assert cached.images(full.id, 5, unreadable=True).total == 2
    assert cached.cache.statistics().misses == 4
    assert cached.cache.statistics().hits == 4


def test_a_cached_list_costs_one_small_statement(database: Database, full: catalog.Project, cached: Catalog) -> None:
    cached.images(full.id, 5)
    with counted(database.engine) as seen:
        cached.images(full.id, 5)
    assert seen.count == 1
    assert "image.uri" not in seen.statements[0]


def test_cached_lists_are_never_stale(database: Database, full: catalog.Project, cached: Catalog, database_settings: Settings) -> None:
    with open_database(database_settings) as elsewhere:
        for number in range(600, 610):
            assert cached.images(full.id, 3).total == cached.projects(3).items[0].images
            add(elsewhere, full, [info(number)])
            assert cached.images(full.id, 3).items[0].name == f"{number:06}.tif"
            assert cached.projects(3).items[0].images == number - 600 + 26
        with elsewhere.write() as connection:
            catalog.delete_project(connection, full.id)
    assert cached.projects(3).items == ()
    with pytest.raises(UnknownProjectError):
        cached.images(full.id, 3)


def test_databases_that_share_a_redis_do_not_mix(make_settings: Callable[..., Settings], tmp_path: Path, valkey_url: str) -> None:
    """The first project of a new database has the number and the page of one that was there before."""
    names = []
    for name in ("before", "after"):
        settings = make_settings(redis_url=valkey_url)
        with open_database(settings) as database:
            with database.write() as connection:
                project = catalog.create_project(connection, name)
                catalog.add(connection, project.id, [info(1, name=name)])
            opened = Catalog(database, settings)
            names.append((project.id, opened.projects(1).items[0].name, opened.images(project.id, 1).items[0].name))
            opened.close()
        for file in (tmp_path / "home").glob("segkit.db-*"):
            file.unlink()
    assert names == [(1, "before", "before"), (1, "after", "after")]
