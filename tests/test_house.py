"""The house: imports go strictly downwards, walls stand, the README names every module."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "segkit"

#: Rooms from the roof down. A room imports only from floors below its own; rooms on one floor do not know each other.
FLOORS: list[list[str]] = [
    ["__main__"],
    ["cli"],
    ["server"],
    ["dashboards"],
    ["tables", "doctor", "demo", "lab", "reports", "widgets", "training"],
    ["boards"],
    ["kit"],
    ["projects", "unattended", "client"],
    ["schedule"],
    ["runs", "batches"],
    ["worker"],
    ["large", "building", "corrections", "backups", "upkeep"],
    ["tasks", "exports", "uploads", "archives"],
    ["jobs", "results"],
    ["catalog", "cluster", "tiling", "tokens", "folders", "deepzoom", "events"],
    ["revisions", "history"],
    ["database", "cache", "segmenters", "images", "measure", "scoring", "labels", "objects", "overlays", "previews"],
    ["migrations"],
    ["schema", "telemetry", "kernels", "pages", "rows", "files", "synthetic", "notifications", "logs", "meter", "wells"],
    ["settings"],
    ["errors"],
]
FLOOR_OF = {room: len(FLOORS) - number for number, rooms in enumerate(FLOORS) for room in rooms}

#: What a room may not import, and which rooms alone may import a package.
UI = {"ipywidgets", "panel", "voila", "anywidget"}
FORBIDDEN = {
    room: {"sqlalchemy", "redis", "distributed", "dask"} | UI
    for room in ("segmenters", "measure", "scoring", "tiling", "kernels", "images")
}
ONLY_IN = {
    "redis": {"cache", "events"},
    "papermill": {"batches"},
    "ipywidgets": {"widgets"},
    "anywidget": {"widgets"},
    "panel": {"dashboards"},
    "torch": {"training"},
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "shared" not in path.relative_to(PACKAGE).parts)


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports when it runs, as dotted names; what only type checkers read does not count."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    typing_only = [block for block in ast.walk(tree) if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"]
    skipped = {id(node) for block in typing_only for node in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_imported(path: Path) -> set[str]:
    rooms = {name.split(".")[1] for name in imports_of(path) if name.startswith("segkit.")}
    return {room for room in rooms if not room.startswith("__")} - {room_of(path), "__version__"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert not rooms_imported(path), "the package itself imports lazily"
        return
    for other in rooms_imported(path):
        assert FLOOR_OF[other] < FLOOR_OF[room], f"{room} (floor {FLOOR_OF[room]}) imports {other} (floor {FLOOR_OF[other]})"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_walls_stand(path: Path) -> None:
    room = room_of(path)
    packages = {name.split(".")[0] for name in imports_of(path)}
    assert not packages & FORBIDDEN.get(room, set())
    for package, rooms in ONLY_IN.items():
        assert package not in packages or room in rooms, f"{package} is imported in {room}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_environment_is_read_in_settings_alone(path: Path) -> None:
    if room_of(path) == "settings":
        return
    attributes = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert not attributes & {"environ", "getenv", "putenv"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


def test_no_drawers() -> None:
    drawers = {"utils", "helpers", "common", "core", "base", "models", "misc"}
    assert not drawers & {path.stem for path in modules()}


def test_readme_names_every_room() -> None:
    text = (ROOT / "README.md").read_text()
    rooms = {room_of(path) for path in modules()} - {"__init__", "__main__"}
    assert not [room for room in sorted(rooms) if f"`{room}.py`" not in text and f"`{room}/`" not in text]


def test_every_room_has_its_tests() -> None:
    rooms = {room_of(path) for path in modules()} - {"__init__", "__main__", "errors"}
    assert not [room for room in sorted(rooms) if not list((ROOT / "tests").glob(f"test_{room}*.py"))]


def test_conda_and_pip_name_the_same_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda_names = {"psycopg[binary]": "psycopg", "opencv-python-headless": "opencv", "redis": "redis-py", "dask": "dask-core"}
    conda_names |= {"uvicorn[standard]": "uvicorn-standard", "isal": "python-isal", "brotli": "brotli-python"}
    conda_names |= {"prometheus-client": "prometheus_client", "matplotlib": "matplotlib-base", "jupyter-scheduler": "jupyter_scheduler"}
    wanted = set()
    for requirement in project["dependencies"]:
        name, _, version = requirement.partition(">=")
        wanted.add(f"{conda_names.get(name, name)}>={version}")
    listed = (ROOT / "environment.yml").read_text().splitlines()
    conda = {line.strip().removeprefix("- ") for line in listed if line.startswith("  - ")} - {"python>=3.11", "pip", "pip:", "conda-forge"}
    assert conda == wanted
    assert f"python{project['requires-python']}" in {line.strip().removeprefix("- ") for line in listed}


def test_top_level_is_as_agreed() -> None:
    for name in ("notebooks", "segkit", "dashboards", "conf", "tests", "benchmarks", "docs"):
        assert (ROOT / name).is_dir()
    for name in (
        "environment.yml",
        "pyproject.toml",
        "docker-compose.yml",
        "README.md",
        "Makefile",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
    ):
        assert (ROOT / name).is_file()
