"""The wheel, alone in a new environment: everything travels in it, and it works from any folder without the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from segkit import __version__

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).with_name("uv")
#: Long enough for a busy machine that has to fetch every package and compile every kernel.
PATIENCE = 900

pytestmark = pytest.mark.timeout(PATIENCE)


def outside() -> dict[str, str]:
    """The environment without whatever could lead back to the checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SEGKIT_", "PYTHON", "VIRTUAL_ENV"))}
    return kept | {"COLUMNS": "200"}


def done(command: list[str | Path], folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run a command that must end well; returns what it printed."""
    ran = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment or outside(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, as `make wheel` does."""
    folder = tmp_path_factory.mktemp("wheel")
    # uv is asked for packages by the build; certificates are the system's, as in the Makefile.
    environment = os.environ | {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1", "PATH": f"{UV.parent}{os.pathsep}{os.environ['PATH']}"}
    done([sys.executable, "-m", "build", "--wheel", "--installer", "uv", "--outdir", folder, ROOT], folder, environment)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Install the wheel alone into a new environment; gives its `segkit` command, run in an empty folder."""
    folder = tmp_path_factory.mktemp("installed")
    done([UV, "venv", "--quiet", "--python", sys.executable, folder / "venv"], folder)
    install = [UV, "pip", "install", "--quiet", "--system-certs", "--python", folder / "venv" / "bin" / "python"]
    # What is locked for development overrides jupyter-scheduler's wish for an old croniter (pyproject.toml, [tool.uv]).
    (folder / "locked.txt").write_text(re.sub(r"(?m)^croniter==(.*\\\n)+.*\n", "", (ROOT / "requirements.lock").read_text()))
    done([*install, "--constraint", folder / "locked.txt", wheel], folder)
    (folder / "empty").mkdir()

    def segkit(*arguments: str) -> str:
        return done([folder / "venv" / "bin" / "segkit", *arguments], folder / "empty")

    return segkit


def test_everything_travels_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    for kept in ("notebooks", "dashboards", "conf"):
        for path in (ROOT / kept).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and ".ipynb_checkpoints" not in path.parts:
                assert f"segkit/shared/{path.relative_to(ROOT)}" in inside
    for path in (ROOT / "segkit").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(ROOT)) in inside
    assert any(name.startswith("segkit/migrations/versions/") for name in inside)
    assert f"segkit-{__version__}.dist-info/licenses/LICENSE" in inside


def test_nothing_else_travels_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
    assert not [name for name in inside if not name.startswith(("segkit/", f"segkit-{__version__}.dist-info/"))]
    assert not [name for name in inside if name.endswith((".pyc", ".nbi", ".nbc", ".db"))]
    assert wheel.stat().st_size < 5 * 1024**2


@pytest.mark.slow
def test_alone_it_tells_its_version_and_settings(installed: Callable[..., str]) -> None:
    assert installed("--version").strip() == f"segkit {__version__}"
    settings = json.loads(installed("settings", "--json"))
    assert {"SEGKIT_HOME", "SEGKIT_PREFETCH"} <= {each["name"] for each in settings}


@pytest.mark.slow
def test_alone_it_finds_what_travels_with_it(installed: Callable[..., str], tmp_path: Path) -> None:
    listed = json.loads(installed("list", "segmenters", "--json", "--home", str(tmp_path / "home")))
    assert {"nuclei", "tissue", "spheroid", "threshold"} <= {each["name"] for each in listed}
    assert not [each for each in listed if "fault" in each]


@pytest.mark.slow
def test_alone_it_runs_the_demonstration(installed: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "segkit-demo"
    printed = installed("demo", "--out", str(out))
    assert "What was found" in printed
    assert (out / "contact_sheet.png").stat().st_size > 10_000
    assert list(out.glob("run_*_nuclei/coco/annotations.json"))
