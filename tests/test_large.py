"""Images above the size limit of one task: the same labels and rows, through the queue, tile by tile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

import segkit
from segkit import results
from segkit.kit import Kit, Run
from segkit.synthetic import nuclei_field

PARAMETERS = {"diameter": 20}


def kit_for(home: Path, **arguments: object) -> Kit:
    return segkit.open(home, cluster="threads", threads_per_worker=2, poll_seconds=0.1, tile=256, **arguments)


def run_on(home: Path, image: Path, method: str = "threshold", **arguments: object) -> Run:
    with kit_for(home, **arguments) as kit:
        project = kit.project("large", create=True)
        project.add(image, pixel_size_um=0.5)
        run = project.segment(method, **(PARAMETERS if method == "threshold" else {}))
        kit.work_off()
        assert run.progress().done == 1, run.failures().items
    return run


def everything_of(run: Run) -> tuple[np.ndarray, list[dict[str, object]], dict[str, object]]:
    with kit_for(Path(run.kit.settings.home)) as kit:
        (result,) = kit.run(run.number).results()
        results.verify(result.path, result.record.checksum)
        return result.labels(), result.table().to_pylist(), result.summary


def write_large(folder: Path, frames: int) -> Path:
    """A tiled TIFF, or a time series of them."""
    folder.mkdir()
    planes = np.stack([nuclei_field((700, 900), 150, seed=frame).image for frame in range(frames)])
    metadata = {"axes": "TYX"} if frames > 1 else None
    tifffile.imwrite(folder / "large.ome.tif", planes.squeeze(), tile=(128, 128), metadata=metadata, ome=frames > 1)
    return folder / "large.ome.tif"


@pytest.mark.parametrize("frames", [1, 2])
def test_tiles_through_the_queue_equal_one_piece(tmp_path: Path, frames: int) -> None:
    image = write_large(tmp_path / "images", frames)
    tiled = everything_of(run_on(tmp_path / "tiled", image, tile_above=100_000))
    whole = everything_of(run_on(tmp_path / "whole", image))
    assert np.array_equal(tiled[0], whole[0])
    assert tiled[0].max() > 100
    assert tiled[1] == whole[1]
    assert tiled[2] == whole[2]


def test_the_size_that_was_estimated_is_told(tmp_path: Path) -> None:
    image = write_large(tmp_path / "images", 1)
    tiled = everything_of(run_on(tmp_path / "tiled", image, "nuclei", tile_above=100_000))
    whole = everything_of(run_on(tmp_path / "whole", image, "nuclei"))
    assert np.array_equal(tiled[0], whole[0])
    assert tiled[2] == whole[2]
    assert 15 < tiled[2]["typical_diameter_px"] < 30


def test_nothing_is_left_between_the_passes(tmp_path: Path) -> None:
    run_on(tmp_path / "home", write_large(tmp_path / "images", 1), tile_above=100_000)
    assert not [path for path in (tmp_path / "home" / "tiles").rglob("*") if path.is_file()]
    assert [path.name for path in (tmp_path / "home" / "results" / "1").iterdir()] == ["1"]


def test_a_large_image_that_changed_is_refused(tmp_path: Path) -> None:
    image = write_large(tmp_path / "images", 1)
    with kit_for(tmp_path / "home", tile_above=100_000) as kit:
        project = kit.project("large", create=True)
        project.add(image)
        run = project.segment("threshold")
        tifffile.imwrite(image, np.zeros((700, 900), np.uint16), tile=(128, 128))
        kit.work_off()
        (job,) = run.failures().items
        assert "changed" in (job.error or "")
