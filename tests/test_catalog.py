"""Projects and images: each once, with exact counters, added one by one or registered from folders."""

from __future__ import annotations

import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tifffile
from sqlalchemy import update

from segkit import catalog
from segkit.catalog import Added, Catalog
from segkit.catalog.registering import MOST_AT_ONCE, probe_all
from segkit.database import Database
from segkit.errors import ImageReadError, NothingToAddError, PixelSizeError, ProjectExistsError, ProjectNameError, UnknownProjectError
from segkit.images import ImageInfo
from segkit.schema import Project
from segkit.settings import Settings
from segkit.telemetry import counted
from tests.catalog_rows import add, bad, counters_are_exact, info, look


@pytest.fixture
def project(database: Database) -> catalog.Project:
    with database.write() as connection:
        return catalog.create_project(connection, "spheroids")


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


# Registering files


@pytest.fixture
def cached(database: Database, database_settings: Settings) -> Iterator[Catalog]:
    with closing(Catalog(database, database_settings)) as opened:
        yield opened


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
