"""The kit as a person holds it: the snippet of the README, projects, images, what is deleted and what stays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from plates import QUICK, open_kit, squares
from test_previews import Reader
from tifffile import imwrite

import segkit
from segkit.errors import (
    ImageMissingError,
    ProjectNameError,
    SettingsError,
    UnknownProjectError,
)
from segkit.kit import Kit, Project
from segkit.settings import Settings
from segkit.synthetic import nuclei_field

ROOT = Path(__file__).parent.parent


def snippet() -> str:
    """The first Python of the README, which is the one at the top of the design."""
    found = re.search(r"```python\n(import segkit\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_snippet_works_as_it_is_written(tmp_path: Path) -> None:
    """As a script, without a guard for multiprocessing, with nothing set, from a folder with a plate in it."""
    (tmp_path / "plate7").mkdir()
    fields = [nuclei_field((128, 128), 12, seed=seed) for seed in range(2)]
    for number, field in enumerate(fields):
        imwrite(tmp_path / "plate7" / f"{number}.tif", field.image)
    lines = snippet().splitlines()
    lines += ["print(len(run.objects()), run.objects().column_names[2:5])"]
    (tmp_path / "script.py").write_text("\n".join(lines))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEGKIT_")}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "run 1 nuclei: 100%" in done.stderr, "a progress bar"
    count = int(done.stdout.split()[0])
    assert 0.5 * 24 <= count <= 1.5 * 24
    assert "area_um2" in done.stdout
    assert (tmp_path / "out" / "annotations.json").is_file()
    assert (tmp_path / "segkit-data" / "segkit.db").is_file()


def test_an_array_needs_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    labels = segkit.segment(squares(4), "threshold")
    assert (labels.dtype, labels.max()) == (np.int32, 4)
    assert segkit.score(labels, labels).at(0.5).f1 == 1
    assert list(tmp_path.iterdir()) == []


def test_projects_are_made_found_and_suggested(kit: Kit) -> None:
    assert kit.project("spheroids", create=True).name == "spheroids"
    assert kit.project("spheroids", create=True).record.id == kit.project("spheroids").record.id
    with pytest.raises(UnknownProjectError, match='Did you mean "spheroids"'):
        kit.project("spheroid")
    with pytest.raises(ProjectNameError):
        kit.project("two\nlines", create=True)
    assert [each.name for each in kit.projects().items] == ["spheroids"]


def test_what_dead_attempts_left_is_swept(kit: Kit, project: Project) -> None:
    project.segment("threshold", images=[next(iter(project))]).wait(work=True)
    left = Path(kit.settings.home) / "results" / "1" / "9.1-dead"
    left.mkdir()
    assert kit.sweep() == [], "it may still be written"
    with segkit.open(kit.settings.home, database_url=url_of(kit), **(QUICK | {"lease_seconds": 0.02, "beat_seconds": 0.01})) as hasty:
        time.sleep(0.1)
        assert hasty.sweep() == ["results/1/9.1-dead"]


def url_of(kit: Kit) -> str | None:
    return kit.settings.database_url and kit.settings.database_url.get_secret_value()


def test_two_kits_with_a_shared_cache_see_each_others_commits(make_settings: object, valkey_url: str, plate: Path) -> None:
    settings: Settings = make_settings("postgresql")  # type: ignore[operator]
    with open_kit(settings, redis_url=valkey_url) as one, open_kit(settings, redis_url=valkey_url) as two:
        project = one.project("plate", create=True)
        assert two.project("plate").images().total == 0
        project.add(plate)
        assert two.project("plate").images().total == 4
        assert two.projects().items[0].images == 4
        run = project.segment("threshold")
        two.run(run.number).wait(work=True)
        assert run.progress().done == 4
        project.delete(confirm=True)
        assert two.projects().items == ()


def test_settings_are_arguments_too(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match='Did you mean "threads_per_worker"'):
        segkit.open(tmp_path / "home", threads_per_woker=2)
    assert not (tmp_path / "home").exists()


def test_a_notebook_shows_a_kit_a_project_and_an_image(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    folder = tmp_path / "images"
    folder.mkdir()
    imwrite(folder / f"{evil}.tif", squares(3), resolution=(20000, 20000), resolutionunit="CENTIMETER")
    with segkit.open(tmp_path / "home", **QUICK) as kit:
        project = kit.project(evil, create=True)
        project.add(folder)
        (image,) = project
        for shown in (kit, project, image):
            page = Reader(shown._repr_html_())
            assert page.text.count(evil) > 0
            assert "onerror" not in page.attributes
            assert all(source.startswith("data:image/png") for source in page.sources)
        assert Reader(image._repr_html_()).sources
        assert "0.5" in Reader(image._repr_html_()).text
        assert repr(project) == f"<project {evil!r}: 1 images, 0 unreadable>"
        assert repr(kit) == f"<segkit at {tmp_path / 'home'}>"
        (folder / f"{evil}.tif").unlink()
        gone = Reader(image._repr_html_())
        assert (gone.sources, "There is no file" in gone.text) == ([], True)
        with pytest.raises(ImageMissingError):
            image.pixels()
