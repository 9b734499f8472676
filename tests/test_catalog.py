"""Projects and images: each once, exact counters, pages in one statement, cached lists that are never stale."""

from __future__ import annotations

import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from sqlalchemy import func, insert, select, update

from segkit import catalog
from segkit.catalog import Added, Catalog, Unreadable
from segkit.catalog.registering import MOST_AT_ONCE, probe_all
from segkit.database import Database, now_sql, open_database
from segkit.errors import (
    CursorError,
    ImageReadError,
    NothingToAddError,
    PageError,
    PixelSizeError,
    ProjectExistsError,
    ProjectNameError,
    UnknownImageError,
    UnknownProjectError,
)
from segkit.images import ImageInfo
from segkit.schema import Image, Job, Project, Result, Run
from segkit.settings import Settings
from segkit.telemetry import counted


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


@pytest.fixture
def project(database: Database) -> catalog.Project:
    with database.write() as connection:
        return catalog.create_project(connection, "spheroids")


def look(database: Database, name: str = "spheroids") -> catalog.Project:
    with database.read() as connection:
        return catalog.project(connection, name)


def counters_are_exact(database: Database, project: catalog.Project) -> bool:
    """Compare the counters with the rows, by a count of our own."""
    counts = select(func.count(), func.count(Image.error)).where(Image.project_id == project.id)
    kept = select(Project.images, Project.unreadable).where(Project.id == project.id)
    with database.read() as connection:
        return tuple(connection.execute(counts).one()) == tuple(connection.execute(kept).one())


# Projects


def test_a_project_is_made_and_found(database: Database) -> None:
    with database.write() as connection:
        made = catalog.create_project(connection, "  Plate 7 – µm (é) ")
    assert made.name == "Plate 7 – µm (é)"
    assert (made.images, made.unreadable) == (0, 0)
    assert look(database, "Plate 7 – µm (é)") == made


def test_a_name_is_taken_once(database: Database, project: catalog.Project) -> None:
    with database.write() as connection:
        with pytest.raises(ProjectExistsError, match="spheroids"):
            catalog.create_project(connection, "spheroids")
        assert catalog.ensure_project(connection, "spheroids") == project
        assert catalog.ensure_project(connection, "other").id != project.id


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "zero\0", "x" * 201, "tab\tbed"])
def test_a_name_that_cannot_be(database: Database, name: str) -> None:
    with database.write() as connection, pytest.raises(ProjectNameError):
        catalog.create_project(connection, name)


def test_an_unknown_project_is_told_with_the_nearest(database: Database, project: catalog.Project) -> None:
    with database.read() as connection, pytest.raises(UnknownProjectError, match='Did you mean "spheroids"'):
        catalog.project(connection, "spheroid")
    with database.read() as connection, pytest.raises(UnknownProjectError):
        catalog.project(connection, "zero \0 byte")


def test_two_make_the_same_project_at_once(database: Database) -> None:
    ids: list[int] = []

    def make() -> None:
        with database.write() as connection:
            ids.append(catalog.ensure_project(connection, "shared").id)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 6
    assert len(set(ids)) == 1


def test_projects_are_listed_newest_first_in_one_statement(database: Database) -> None:
    for number in range(7):
        with database.write() as connection:
            catalog.create_project(connection, f"p{number}")
    with counted(database.engine) as seen, database.read() as connection:
        first = catalog.projects(connection, 3)
    assert seen.count == 1
    assert [each.name for each in first.items] == ["p6", "p5", "p4"]
    assert first.total == 7
    with database.read() as connection:
        second = catalog.projects(connection, 3, after=first.next)
        third = catalog.projects(connection, 3, after=second.next)
        assert [each.name for each in catalog.projects(connection, 2, offset=4).items] == ["p2", "p1"]
    assert [each.name for each in second.items + third.items] == ["p3", "p2", "p1", "p0"]
    assert third.next is None


def test_no_projects(database: Database) -> None:
    with database.read() as connection:
        assert catalog.projects(connection) == catalog.projects(connection, 1)
        assert catalog.projects(connection).items == ()
        assert catalog.projects(connection).total == 0


# Adding


def test_images_are_added_once(database: Database, project: catalog.Project) -> None:
    assert add(database, project, (info(number) for number in range(10))) == Added(added=10)
    assert add(database, project, (info(number) for number in range(5, 15))) == Added(added=5, duplicates=5)
    assert look(database).images == 15
    assert counters_are_exact(database, project)


def test_duplicates_within_one_call(database: Database, project: catalog.Project) -> None:
    copies = [info(1), info(1, uri="/elsewhere/copy.tif", name="copy.tif"), info(2), info(1)]
    assert add(database, project, copies) == Added(added=2, duplicates=2)
    assert counters_are_exact(database, project)


def test_more_than_one_chunk(database: Database, project: catalog.Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.catalog.adding.CHUNK", 7)
    mixed = [info(number % 30) if number % 5 else bad(number) for number in range(50)]
    assert add(database, project, mixed) == Added(added=24, duplicates=16, unreadable=10)
    assert counters_are_exact(database, project)


def test_every_field_comes_back(database: Database, project: catalog.Project) -> None:
    uri, name = '/odd/"quoted", tab\tnew\nline \\N \\ é 🔬.tif', "-é 🔬 'x'\n.tif"
    odd = info(1, uri=uri, name=name, channels=('DA"PI', "Ω\\N"), z_step_um=1.5, time_step_s=60.0)
    add(database, project, [odd])
    with database.read() as connection:
        image = catalog.images(connection, project.id).items[0]
        assert catalog.image(connection, image.id) == image
    assert {name: getattr(image, name) for name in ImageInfo.__dataclass_fields__ if name != "scenes"} == {
        name: getattr(odd, name) for name in ImageInfo.__dataclass_fields__ if name != "scenes"
    }
    assert image.error is None


def test_unreadable_files_are_listed_with_their_reason(database: Database, project: catalog.Project) -> None:
    assert add(database, project, [info(1), bad(2), bad(3, "No such file: \0 \udc80")]) == Added(added=1, unreadable=2)
    assert (look(database).images, look(database).unreadable) == (3, 2)
    with database.read() as connection:
        page = catalog.images(connection, project.id, unreadable=True)
    assert page.total == 2
    assert {image.error for image in page.items} == {"It is cut short.", "No such file: \\0 \\udc80"}
    assert {image.axes for image in page.items} == {None}


def test_an_unreadable_file_is_listed_once_with_its_latest_reason(database: Database, project: catalog.Project) -> None:
    add(database, project, [bad(2), bad(2)])
    before = look(database).revision
    add(database, project, [bad(2)])
    assert look(database).revision == before
    add(database, project, [bad(2, "Permission denied.")])
    assert look(database).revision != before
    with database.read() as connection:
        assert [image.error for image in catalog.images(connection, project.id).items] == ["Permission denied."]
    assert counters_are_exact(database, project)


def test_once_readable_it_takes_the_place_of_its_complaint(database: Database, project: catalog.Project) -> None:
    add(database, project, [bad(1), bad(2), info(3)])
    assert add(database, project, [info(1), info(2), info(3)]) == Added(added=2, duplicates=1)
    assert (look(database).images, look(database).unreadable) == (3, 0)
    assert counters_are_exact(database, project)


def test_a_name_that_is_not_text_is_a_complaint(database: Database, project: catalog.Project) -> None:
    assert add(database, project, [info(1, uri="/plate/\udcff.tif"), info(2, name="zero\0.tif")]) == Added(unreadable=2)
    with database.read() as connection:
        assert all("Rename the file" in str(image.error) for image in catalog.images(connection, project.id).items)


def test_nothing_new_leaves_the_revision(database: Database, project: catalog.Project) -> None:
    add(database, project, [info(1)])
    before = look(database)
    add(database, project, [info(1)])
    assert look(database) == before
    add(database, project, [info(2)])
    assert look(database).revision != before.revision


def test_an_add_that_fails_leaves_nothing(database: Database, project: catalog.Project) -> None:
    def broken() -> Iterator[ImageInfo]:
        yield from (info(number) for number in range(20_000))
        raise ImageReadError("the listing ended early")

    with pytest.raises(ImageReadError):
        add(database, project, broken())
    assert look(database) == project
    assert counters_are_exact(database, project)


def test_adding_to_a_deleted_project(database: Database, project: catalog.Project) -> None:
    with database.write() as connection:
        catalog.delete_project(connection, project.id)
    with pytest.raises(UnknownProjectError):
        add(database, project, [info(1)])


def test_many_add_the_same_at_once_and_the_counters_are_exact(database: Database, project: catalog.Project) -> None:
    """Eight threads add overlapping sets in different orders."""
    done: list[Added] = []

    def work(number: int) -> None:
        ordered = [info(each) for each in range(number * 20, number * 20 + 100)]
        for part in range(0, 100, 25):
            done.append(add(database, project, reversed(ordered[part : part + 25]) if number % 2 else ordered[part : part + 25]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 32
    assert sum(each.added for each in done) == look(database).images == 240
    assert counters_are_exact(database, project)


def test_counters_that_were_changed_by_hand_are_mended(database: Database, project: catalog.Project) -> None:
    add(database, project, [info(1), bad(2)])
    with database.write() as connection:
        assert not catalog.recount(connection, project.id)
        connection.execute(update(Project).values(images=99))
        assert catalog.recount(connection, project.id)
    assert counters_are_exact(database, project)


def test_a_chunk_at_a_time_is_held(database: Database, project: catalog.Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory follows the chunk, not the listing."""
    monkeypatch.setattr("segkit.catalog.adding.CHUNK", 1000)
    tracemalloc.start()
    add(database, project, (info(number) for number in range(3000)))
    small = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    add(database, project, (info(number) for number in range(3000, 15_000)))
    large = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert large < 1.5 * small


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
    opened = Catalog(database, database_settings)
    yield opened
    opened.close()


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


# Registering files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, a copy of one, a cut one, an empty one, and files that are none."""
    place = tmp_path / "plate é 7"
    place.mkdir()
    generator = np.random.default_rng(1)
    for number in range(3):
        tifffile.imwrite(place / f"-well {number}.tif", generator.integers(0, 4000, (16, 20), np.uint16))
    (place / "copy.tif").write_bytes((place / "-well 1.tif").read_bytes())
    (place / "cut.tif").write_bytes((place / "-well 0.tif").read_bytes()[:300])
    (place / "empty.tif").write_bytes(b"")
    (place / "notes.txt").write_text("no image")
    return place


def test_a_folder_is_registered(database: Database, project: catalog.Project, cached: Catalog, folder: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    added = cached.register(project.id, folder, progress=lambda done, total: calls.append((done, total)))
    assert (added.added, added.duplicates, added.unreadable) == (3, 1, 2)
    assert calls[-1] == (6, 6)
    with database.read() as connection:
        images = {image.id: image for image in catalog.images(connection, project.id).items}
    assert sorted(added.image_ids) == sorted(number for number, image in images.items() if image.error is None)
    reasons = {image.name: image.error for image in images.values() if image.error}
    assert set(reasons) == {"cut.tif", "empty.tif"}
    assert all(len(reason) > 10 for reason in reasons.values())
    assert counters_are_exact(database, project)


def test_registered_again_it_adds_nothing_and_tells_the_same_images(project: catalog.Project, cached: Catalog, folder: Path) -> None:
    first = cached.register(project.id, folder)
    again = cached.register(project.id, str(folder / "*.tif"))
    assert (again.added, again.duplicates, again.unreadable) == (0, 4, 2)
    assert again.image_ids == first.image_ids


def test_mended_files_take_their_place(database: Database, project: catalog.Project, cached: Catalog, folder: Path) -> None:
    cached.register(project.id, folder)
    tifffile.imwrite(folder / "cut.tif", np.full((9, 9), 7, np.uint8))
    (folder / "empty.tif").unlink()
    added = cached.register(project.id, folder)
    assert (added.added, added.unreadable) == (1, 0)
    assert look(database).unreadable == 1
    assert counters_are_exact(database, project)


def test_a_pixel_size_that_is_given_outweighs_the_file_and_reaches_known_images(
    database: Database, project: catalog.Project, cached: Catalog, folder: Path
) -> None:
    cached.register(project.id, folder)
    added = cached.register(project.id, folder, pixel_size_um=0.65, z_step_um=2.0)
    assert (added.added, added.rescaled) == (0, 3)
    with database.read() as connection:
        sizes = {(image.pixel_size_um, image.z_step_um) for image in catalog.images(connection, project.id).items if not image.error}
    assert sizes == {(0.65, 2.0)}
    assert cached.register(project.id, folder, pixel_size_um=0.65).rescaled == 0


@pytest.mark.parametrize("size", [0, -1, float("nan"), float("inf")])
def test_a_pixel_size_that_cannot_be(project: catalog.Project, cached: Catalog, folder: Path, size: float) -> None:
    with pytest.raises(PixelSizeError):
        cached.register(project.id, folder, pixel_size_um=size)
    with pytest.raises(PixelSizeError):
        cached.register(project.id, folder, z_step_um=size)


def test_a_folder_without_images(project: catalog.Project, cached: Catalog, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    for number in range(50):
        (tmp_path / "none" / f"{number}.txt").write_text("no image")
    with pytest.raises(NothingToAddError, match="none"):
        cached.register(project.id, tmp_path / "none")


def test_groups_end_while_others_are_read(database: Database, project: catalog.Project) -> None:
    """What was registered before an interruption stays."""

    def probe(uri: str) -> ImageInfo:
        number = int(uri)
        if number == MOST_AT_ONCE + 500:
            raise KeyboardInterrupt
        return info(number)

    with pytest.raises(KeyboardInterrupt):
        catalog.register(database, project.id, (str(number) for number in range(10_000)), probe)
    assert look(database).images == MOST_AT_ONCE
    assert counters_are_exact(database, project)


def test_reading_runs_ahead_only_a_little() -> None:
    """A million files are neither listed nor read before they are added."""
    asked: list[int] = []

    def uris() -> Iterator[str]:
        for number in range(1_000_000):
            asked.append(number)
            yield str(number)

    stream = probe_all(uris(), lambda uri: info(int(uri)), threads=4)
    found = [next(stream) for _ in range(100)]
    assert [each.name for each in found] == [f"{number:06}.tif" for number in range(100)]
    assert len(asked) < 150
    stream.close()  # type: ignore[attr-defined]


REGISTER = """
import sys
from segkit.catalog import Catalog
from segkit.database import open_database
from segkit.settings import load
settings = load(home=sys.argv[1], **({"database_url": sys.argv[2]} if sys.argv[2] else {}))
with open_database(settings) as database:
    print(Catalog(database, settings).register(int(sys.argv[3]), sys.argv[4]).added)
"""


def test_two_processes_register_the_same_folder(
    database: Database, database_settings: Settings, project: catalog.Project, folder: Path
) -> None:
    url = database_settings.database_url.get_secret_value() if database_settings.database_url else ""
    command = [sys.executable, "-c", REGISTER, database_settings.home, url, str(project.id), str(folder)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert sum(counts) == 3
    assert counters_are_exact(database, project)
