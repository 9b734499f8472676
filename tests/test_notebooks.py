"""Notebooks: pages, not programs. Each says what it is for, holds no output, and runs from top to bottom."""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import papermill
import papermill.parameterize
import pytest
import tifffile
from nbclient import NotebookClient
from plates import squares, write_plate
from scipy.ndimage import label

import segkit

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
VERBS = {"compare", "correct", "explore", "export", "inspect", "segment", "train", "tune", "watch", "measure", "batch", "review", "score"}
VERBS |= {"run", "report", "scale", "follow"}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


def test_it_is_named_by_a_verb_and_a_noun(path: Path) -> None:
    verb, _, noun = path.stem.partition("_")
    assert verb in VERBS
    assert noun


def test_it_is_valid_and_each_cell_has_an_id(notebook: Any) -> None:
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


def test_it_says_first_what_it_is_for(notebook: Any) -> None:
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    title, _, purpose = first.source.partition("\n")
    assert title.startswith("# ")
    assert purpose.strip().endswith(".")


def test_its_first_code_is_its_parameters(notebook: Any) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == code[:1]
    assert all(isinstance(statement, ast.Assign | ast.AnnAssign) for statement in ast.parse(code[0].source).body), (
        "parameters are plain values"
    )


def test_it_holds_no_output_and_no_logic(notebook: Any) -> None:
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        assert (cell.outputs, cell.execution_count) == ([], None)
        logic = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Try)
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, logic)]


def test_it_imports_no_deeper_than_segkit(notebook: Any) -> None:
    for cell in notebook.cells:
        for node in ast.walk(ast.parse(cell.source if cell.cell_type == "code" else "")):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("segkit.") and not name.startswith("segkit.widgets")]


def page_of(done: Any) -> str:
    """Everything that executed cells show."""
    return "".join(output.data.get("text/html", "") for cell in done.cells for output in cell.get("outputs", []) if "data" in output)


def executed(asked: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Run notebooks from top to bottom with these parameters, one after the other in one kernel, which forgets all between them."""
    joined = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}})
    for name, parameters in asked.items():
        (source,) = [path for path in NOTEBOOKS if path.stem == name]
        page = papermill.iorw.load_notebook_node(str(source))
        filled = papermill.parameterize.parameterize_notebook(page, parameters)
        joined.cells += [nbformat.v4.new_code_cell("%reset -f", metadata={"of": name}), *filled.cells]
        for cell in filled.cells:
            cell.metadata["of"] = name
    NotebookClient(joined, timeout=120).execute()
    return {name: nbformat.v4.new_notebook(cells=[cell for cell in joined.cells if cell.metadata["of"] == name]) for name in asked}


def write_truth(images: Path, truth: Path) -> None:
    """Label images of a plate: each bright square is an object."""
    truth.mkdir()
    for path in images.glob("*.tif"):
        pixels = tifffile.imread(path)
        if pixels.ndim == 2:
            tifffile.imwrite(truth / f"{path.stem}.labels.tif", label(pixels > 100)[0].astype(np.int32))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, make_settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The embedded default, and PostgreSQL with Valkey, where a worker works off what the notebooks queue."""
    settings = make_settings(request.param)
    variables = {"SEGKIT_HOME": settings.home, "SEGKIT_CLUSTER": "threads", "SEGKIT_POLL_SECONDS": "0.1"}
    if request.param == "postgresql":
        variables["SEGKIT_DATABASE_URL"] = settings.database_url.get_secret_value()
        variables["SEGKIT_REDIS_URL"] = request.getfixturevalue("valkey_url")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with segkit.open() as kit, ExitStack() as stack:
        if request.param == "postgresql":
            worker = kit.worker()
            thread = threading.Thread(target=worker.run)
            thread.start()
            stack.callback(thread.join)
            stack.callback(worker.stop)
        yield tmp_path


@pytest.mark.timeout(200)
def test_notebooks_run_from_top_to_bottom(place: Path) -> None:
    images = write_plate(place / "images", [3, 0, 9])
    for well, time, count in [("A01", 0, 2), ("A01", 1, 4), ("B02", 0, 3), ("B02", 1, 3)]:
        tifffile.imwrite(images / f"{well}_t{time}.tif", squares(count, 10 + count + 20 * time + 40 * (well == "B02")))
    write_truth(images, place / "truth")
    (images / "broken.tif").write_text("no image")
    plate = {"project": "<b>plate</b>", "images": str(images / "*.tif"), "segmenter": "threshold"}
    done = executed(
        {
            "segment_images": plate | {"home": None, "pixel_size_um": 0.5, "out": str(place / "objects")},
            "run_batch": plate | {"parameters": {"split": False}, "exports": ["csv", "coco"], "out": str(place / "exports")},
            "scale_out": plate | {"cluster": "threads"},
            "report_run": {"run": 1},
            "compare_runs": {"first": 1, "second": 2},
            "follow_timeseries": {"run": 1},
        }
    )
    pages = {name: page_of(notebook) for name, notebook in done.items()}
    first = pages["segment_images"]
    assert "&lt;b&gt;plate" in first, "names are text"
    assert "<b>plate" not in "".join(pages.values())
    assert first.count("<img src=") >= 6, "thumbnails of the project, of the run, and the worst"
    assert "area_um2" in first
    assert (place / "objects" / "objects.csv").is_file()
    assert (place / "exports" / "run_2_csv").exists()
    report = pages["report_run"]
    for said in ("objects per image, median", "000.tif", "asked for"):
        assert said in report
    assert report.count("<img src=") >= 7, "three of the best, some of the worst, and the distributions"
    assert "<td>24</td>" in report, "all objects"
    assert "F1 at IoU 0.5" in pages["compare_runs"]
    assert "B02" in pages["follow_timeseries"]
    assert ">2<" in pages["follow_timeseries"], "A01 has twice as many in the end"
    with segkit.open() as kit:
        assert segkit.compare_with_truth(kit.run(1), place / "truth").pairs
