"""A lab's own segmenter: the README's package is built, installed and run through the queue, as it is printed there."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from plates import QUICK, squares
from plugins import install

import segkit
from segkit import segmenters, tables
from segkit.errors import InvalidParameterError, SegmenterBrokenError, UnknownParameterError
from segkit.kit import Project
from segkit.segmenters.registry import RESERVED

ROOT = Path(__file__).parent.parent

#: What any package has around the lines that the README shows.
PACKAGING = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "bright-spots"
version = "1"

[tool.hatch.build.targets.wheel]
include = ["bright_spots.py"]
"""


def readme_package(folder: Path) -> Path:
    """Write the package of the README's section "Your own segmenter"."""
    section = (ROOT / "README.md").read_text().partition("### Your own segmenter")[2].partition("\n## ")[0]
    blocks = dict(re.findall(r"```(python|toml)\n(.*?)```", section, re.DOTALL))
    folder.mkdir()
    (folder / "bright_spots.py").write_text(blocks["python"])
    (folder / "pyproject.toml").write_text(PACKAGING + blocks["toml"])
    assert len([line for line in blocks["python"].splitlines() if line.strip()]) <= 20, "it is 20 lines, as promised"
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build that package and install it into a folder, as `pip install .` would."""
    folder = tmp_path_factory.mktemp("plugin")
    package = readme_package(folder / "package")
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "install", "--quiet", "--system-certs", "--no-deps", "--target", str(folder / "site"), str(package)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the installed package on the path, here and in processes that are started."""
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))


@pytest.mark.usefixtures("installed")
def test_the_readmes_segmenter_runs_through_the_queue(tmp_path: Path) -> None:
    assert "spots" in segmenters.names()
    folder = tmp_path / "plate7"
    folder.mkdir()
    bright = squares(5)
    bright[bright > 100] = 250
    bright[4:16, 4:16] = 110
    tifffile.imwrite(folder / "spots.tif", bright)
    with segkit.open(tmp_path / "home", **QUICK) as kit:
        project = kit.project("plate7", create=True)
        project.add(folder)
        dim, bright_only = project.segment("spots", cutoff=0.4), project.segment("spots")
        kit.work_off()
        assert [job.error for run in (dim, bright_only) for job in run.failures().items] == []
        assert (dim.progress().objects, bright_only.progress().objects) == (5, 4)
        assert dim.objects()["area_px"].to_pylist() == [144] * 5
        with pytest.raises(UnknownParameterError, match='Did you mean "cutoff"'):
            project.segment("spots", cutof=0.4)
        with pytest.raises(InvalidParameterError, match="cutoff"):
            project.segment("spots", cutoff=2)


@pytest.mark.usefixtures("installed")
def test_the_readmes_segmenter_at_the_command_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "segkit", "show", "segmenter", "spots", "--home", str(tmp_path / "home")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Connected bright spots" in done.stdout
    assert "cutoff" in done.stdout


@pytest.mark.usefixtures("installed")
def test_the_readmes_segmenter_on_an_array() -> None:
    labels = segkit.segment(squares(3), "spots")
    assert (labels.dtype, labels.max()) == (np.int32, 3)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise ImportError('no GPU here')", "no GPU here"),
        ("SEGMENTER = 3", "not a Segmenter"),
        ("", "SEGMENTER"),
        ("def broken(:", "SyntaxError"),
        ("from segkit.segmenters.threshold import SEGMENTER", "calls itself 'threshold'"),
    ],
)
def test_a_broken_plugin_is_named_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str, says: str
) -> None:
    name = f"broken_{tmp_path.name[-1]}"
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", name, code)))
    with pytest.raises(SegmenterBrokenError, match=says):
        segmenters.get(name)
    assert name in segmenters.broken()
    assert segmenters.get("threshold").name == "threshold"
    tables.LISTINGS["segmenters"](None, False)
    out, err = capsys.readouterr()
    assert "threshold" in out
    assert says in err


COLLIDING = """
from segkit.segmenters import Parameters, Segmenter, parameter

class CollidingParameters(Parameters):
    level: float = parameter(0.5, "Means something else in Project.segment.")

SEGMENTER = Segmenter("colliding", "1", "Cannot be told its level", CollidingParameters, colour=False, function=None)
"""


def test_a_parameter_that_segment_takes_for_its_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`project.segment("colliding", level=0.4)` would mean the pyramid level."""
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", "colliding", COLLIDING)))
    with pytest.raises(SegmenterBrokenError, match='its parameter "level" must have another name'):
        segmenters.get("colliding")
    own = set(inspect.signature(Project.segment).parameters) - {"self", "parameters"}
    assert own <= set(RESERVED)


def test_no_package_takes_over_a_name_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", "threshold", "raise ImportError('an impostor')")))
    assert segmenters.names().count("threshold") == 1
    assert segmenters.get("threshold").parameters.__module__ == "segkit.segmenters.threshold"
