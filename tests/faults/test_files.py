"""Image files that change under a run, and results whose bits flip: told in words, never wrong pixels or numbers."""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from segkit import jobs, results
from segkit.errors import ResultCorruptError
from segkit.kit import Kit
from segkit.settings import Settings
from tests.corpus import write_bad
from tests.faults.invariants import check
from tests.faults.report import record
from tests.faults.scenes import queue_plate
from tests.plates import open_kit, squares, write_plate
from tests.services import service

MakeSettings = Callable[..., Settings]


def failures_of(kit: Kit, number: int = 1) -> dict[str, str]:
    """Why jobs of a run failed, by the image's name."""
    return {each.image_name: each.error or "" for each in kit.run(number).failures().items}


def test_files_that_are_replaced_cut_or_removed_before_they_are_read_fail_alone(make_settings: MakeSettings, tmp_path: Path) -> None:
    """Between registering and running; what is put back is then done by `retry`."""
    settings, folder = make_settings(), tmp_path / "plate"
    with open_kit(settings) as kit:
        run = queue_plate(kit, folder, [1, 2, 3, 4, 5, 6, 7])
        kept = tmp_path / "kept"
        shutil.copytree(folder, kept)
        tifffile.imwrite(folder / "000.tif", squares(9, 99))  # another image
        data = (folder / "001.tif").read_bytes()
        (folder / "001.tif").write_bytes(data[: len(data) // 2])
        (folder / "002.tif").unlink()
        (folder / "003.tif").write_bytes(b"")
        (folder / "004.tif").write_bytes(bytes([data[0] ^ 1]) + data[1:])  # one bit
        (folder / "005.tif").unlink()
        (folder / "005.tif").mkdir()
        kit.work_off()
        said = failures_of(kit)
        assert sorted(said) == [f"{number:03d}.tif" for number in range(6)]
        assert "not the one that was registered" in said["000.tif"]
        assert "There is no file" in said["002.tif"]
        assert all("Traceback" not in reason and reason for reason in said.values()), said
        assert run.progress().done == 1
        check(kit.database, settings.home, drained=True, poison=set(said))
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        assert run.retry() == 6
        kit.work_off()
        check(kit.database, settings.home, drained=True)
    told = "Its job fails and says why, the others go on; put back, `retry` does it"
    record("File replaced, cut or removed before it is read", "another image, half, nothing, one bit, a folder, gone", 6, told)


@pytest.mark.faults
def test_bad_files_in_place_of_good_ones_fail_alone(make_settings: MakeSettings, tmp_path: Path) -> None:
    """Every damaged image of the corpus, put in place of one that was registered, and registered by itself."""
    settings, folder = make_settings(), tmp_path / "plate"
    bad = [path for path in write_bad(tmp_path / "bad").values() if path.is_file()]
    with open_kit(settings) as kit:
        run = queue_plate(kit, folder, [number % 9 for number in range(len(bad) + 3)])
        for number, path in enumerate(bad):
            shutil.copy(path, folder / f"{number:03d}.tif")
        kit.work_off()
        said = failures_of(kit)
        assert len(said) == len(bad)
        assert run.progress().done == 3
        added = kit.project("plate").add(tmp_path / "bad")
        assert added.unreadable
        check(kit.database, settings.home, drained=True, poison=set(said))
    record(
        "Damaged image files", "each of the corpus in place of a good one", len(bad), "Its job fails and says why; its neighbours are done"
    )


def test_a_file_that_changes_while_it_is_read_is_not_taken_for_the_one_that_was_registered(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overwritten in place after its contents were compared and before its pixels are read."""
    from segkit import tasks

    settings, folder = make_settings(), tmp_path / "plate"
    with open_kit(settings) as kit:
        queue_plate(kit, folder, [3])
        true, other = (folder / "000.tif").read_bytes(), tmp_path / "other.tif"
        tifffile.imwrite(other, squares(7, 0))
        seen = tasks.seen_by

        def overwritten(*arguments: object) -> object:
            (folder / "000.tif").write_bytes(other.read_bytes())
            return seen(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(tasks, "seen_by", overwritten)
        kit.work_off()
        monkeypatch.undo()
        assert "changed" in failures_of(kit)["000.tif"]
        (folder / "000.tif").write_bytes(true)
        kit.run(1).retry()
        kit.work_off()
        assert kit.run(1).progress().objects == 3
        check(kit.database, settings.home, drained=True)
    told = "Its job fails: the file is not the one that was registered"
    record("File changes while it is read", "overwritten between the comparison of its contents and its pixels", 1, told)


@pytest.mark.faults
def test_files_that_flicker_while_they_are_read_give_right_results_or_none(make_settings: MakeSettings, tmp_path: Path) -> None:
    """Every file is overwritten with another image and back, all the time; whatever is committed is of what was registered."""
    settings, folder, count, stop = make_settings(max_attempts=1), tmp_path / "plate", 40, threading.Event()
    flips = 0
    with open_kit(settings, max_attempts=1) as kit:
        run = queue_plate(kit, folder, [3] * count)
        true = {path: path.read_bytes() for path in folder.iterdir()}
        write_plate(tmp_path / "other", [7] * count)
        other = {path: (tmp_path / "other" / path.name).read_bytes() for path in true}

        def flicker() -> None:
            nonlocal flips
            chance = random.Random(1)
            while not stop.is_set():
                path = chance.choice(list(true))
                for data in (other[path], true[path]):
                    with path.open("r+b") as file:
                        file.write(data)
                    time.sleep(0.001)
                flips += 1

        flickering = threading.Thread(target=flicker)
        flickering.start()
        try:
            for _ in range(10):
                kit.work_off()
                with kit.database.read() as connection:
                    found = [each.objects for each in results.of_run(connection, run.number, 1000).items]
                assert set(found) <= {3}
                run.retry()
        finally:
            stop.set()
            flickering.join()
        run.retry()
        kit.work_off()
        assert run.progress().objects == 3 * count
        check(kit.database, settings.home, drained=True)
    record(
        "File changes while it is read", "every file overwritten and back at random moments", flips, "Only results of what was registered"
    )


# Results


def places(kit: Kit) -> list[Path]:
    """Where the results of run 1 lie."""
    return sorted(path for path in Path(kit.settings.home, "results", "1").iterdir() if path.is_dir())


def read_all(place: Path) -> tuple[np.ndarray, list[dict[str, object]]]:
    """Read labels and table of a result."""
    opened = results.open_result(str(place))
    return opened.labels.read(), opened.read_objects().to_pylist()


def test_flipped_bits_and_lost_files_of_a_result_are_told_and_never_read(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings, chance, times = make_settings(), random.Random(2), 0
    with open_kit(settings) as kit:
        queue_plate(kit, tmp_path / "plate", [5])
        kit.work_off()
        (place,) = places(kit)
        with kit.database.read() as connection:
            checksum = results.of_run(connection, 1).items[0].checksum
        labels, rows = read_all(place)
        for path in sorted(place.rglob("*")):
            if not path.is_file():
                continue
            data = path.read_bytes()
            for flip in [0, len(data) * 8 - 1, *(chance.randrange(len(data) * 8) for _ in range(20)), None]:
                damaged = bytearray(data)
                if flip is not None:
                    damaged[flip // 8] ^= 1 << flip % 8
                    path.write_bytes(damaged)
                else:
                    path.unlink()
                times += 1
                with pytest.raises(ResultCorruptError):
                    results.verify(str(place), checksum)
                try:
                    found = read_all(place)
                except ResultCorruptError:
                    continue
                finally:
                    path.write_bytes(data)
                # What does not matter for the pixels, such as the software's name in the document, may be read; the numbers are right.
                assert np.array_equal(found[0], labels), (path, flip)
                assert found[1] == rows, (path, flip)
        results.verify(str(place), checksum)
        check(kit.database, settings.home, drained=True)
    told = "Every one is found by `verify`; pixels and numbers that are read are right, or the result is named as damaged"
    record("Bit flips in labels and tables", "one bit of any file of a result flipped, or the file deleted", times, told)


@pytest.mark.faults
def test_a_damaged_result_is_told_by_the_service_and_made_again(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings, chance = make_settings(), random.Random(4)
    with open_kit(settings) as kit:
        run = queue_plate(kit, tmp_path / "plate", [1, 2, 3, 4, 5, 6])
        kit.work_off()
        damaged = places(kit)[:4]
        for place in damaged:
            for path in (*place.glob("labels.ome.zarr/0/c/**/*"), place / "objects.parquet"):
                if path.is_file():
                    data = bytearray(path.read_bytes())
                    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                    path.write_bytes(data)
        with service(settings) as client:
            answer = client.get("/api/runs/1/objects")
            assert (answer.status_code, answer.json()["title"]) == (500, "Result corrupt"), answer.text
            assert "segkit retry" in answer.json()["detail"]
            assert client.get("/api/runs/1/results").json()["total"] == 6
        for each in run.jobs().items:
            if each.image_id <= len(damaged):
                with kit.database.write() as connection:
                    jobs.retry(connection, job_id=each.id, done_too=True)
        kit.work_off()
        check(kit.database, settings.home, drained=True)
    record(
        "Bit flips in labels and tables",
        "in published results that a service shows",
        len(damaged),
        "Told as damaged; made again by `retry`",
    )


def test_a_label_folder_that_loses_its_files_is_damaged_not_empty(make_settings: MakeSettings, tmp_path: Path) -> None:
    """A chunk that is not there reads as zeros in other software."""
    settings = make_settings()
    with open_kit(settings) as kit:
        queue_plate(kit, tmp_path / "plate", [4, 5])
        kit.work_off()
        first, second = places(kit)
        for path in list(first.glob("labels.ome.zarr/0/c/**/*")):
            if path.is_file():
                path.unlink()
        with pytest.raises(ResultCorruptError, match=r"missing|damaged"):
            read_all(first)
        assert read_all(second)[0].max() == 5
        os.rename(second, tmp_path / "moved")
        with pytest.raises(ResultCorruptError, match="missing"):
            read_all(second)
        with kit.database.write() as connection:
            assert jobs.retry(connection, run_id=1, done_too=True) == 2
        kit.work_off()
        check(kit.database, settings.home, drained=True)
    record(
        "Chunks of a label image are lost", "deleted; the whole folder moved away", 2, "Told as missing, never zeros; made again by `retry`"
    )
