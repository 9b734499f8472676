"""Text that somebody else wrote, in pages, tables and logs: it is shown, and never runs; secrets are not shown at all."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import openpyxl
import pytest
import tifffile
from plates import open_kit, squares
from services import TOKEN, service

from segkit import previews, reports
from segkit.batches.html import page_of
from segkit.errors import DatabaseError, SegkitError
from segkit.kit import Kit
from segkit.settings import explain, load

ROOT = Path(__file__).parent.parent
TAG = '"><img src=x onerror=alert(1)><script>alert(1)<'
PROJECT = f"{TAG}/script><a href='javascript:alert(1)'>"
FORMULAS = ("=HYPERLINK('http:evil')", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "=cmd|' C'!A0")
PASSWORD = "hunter2-in-the-url"


class Danger(HTMLParser):
    """Collects what in a page would run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"<{tag} {name}>" for name, _ in attrs if name.startswith("on")]
        self.found += [f"<{tag} {name}={value}>" for name, value in attrs if re.match(r"\s*javascript:", value or "", re.IGNORECASE)]
        self.found += [f"<{tag}>"] if tag in ("script", "iframe", "object", "embed", "base", "meta") else []


def dangers(page: str) -> list[str]:
    parser = Danger()
    parser.feed(page)
    return parser.found


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    """A project, images and a run whose names are chosen to do harm, one image that cannot be read."""
    folder = tmp_path_factory.mktemp("text")
    plate = folder / "plate"
    plate.mkdir()
    for number, name in enumerate((TAG, *FORMULAS)):
        tifffile.imwrite(plate / f"{name}.tif", squares(number % 3 + 1, number))
    (plate / f"bad {TAG}.tif").write_bytes(b"no image")
    with open_kit(load(home=str(folder / "home"))) as kit:
        project = kit.project(PROJECT, create=True)
        project.add(plate)
        project.segment("threshold")
        kit.work_off()
        yield kit


def test_the_parser_sees_what_would_run() -> None:
    assert dangers(f"<b>{TAG}</b>") == ["<img onerror>", "<script>"]
    assert not dangers(previews.facts_html(TAG, {TAG: TAG}))


def test_names_run_in_no_page_of_a_notebook(kit: Kit) -> None:
    project = kit.project(PROJECT)
    run = kit.run(1)
    report = reports.report(run)
    shown: list[Any] = [kit, project, *project.images().items, run, report.summary, report.counts, report.worst(), report.failures]
    pages = [page for each in shown if (page := getattr(each, "_repr_html_", lambda: None)())]
    assert len(pages) >= 5
    assert not [danger for page in pages for danger in dangers(page)]
    assert "alert(1)" in "".join(pages), "the names are shown"


def test_names_and_values_run_in_no_executed_notebook() -> None:
    cell = nbformat.v4.new_code_cell(f"name = {TAG!r}", metadata={"tags": ["injected-parameters"]})
    failed = nbformat.v4.new_output("error", ename=TAG, evalue=TAG, traceback=[f"\x1b[31m{TAG}\x1b[0m"])
    said = nbformat.v4.new_output("stream", name="stdout", text=TAG)
    shown = nbformat.v4.new_output("execute_result", data={"text/plain": TAG}, execution_count=1)
    cell.outputs = [failed, said, shown]
    page = page_of(nbformat.v4.new_notebook(cells=[cell]), PROJECT)
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert "alert(1)" in page


def test_scripts_of_pages_write_text_and_no_html() -> None:
    """Dashboards and widgets get names as data; the scripts that draw them have no way to turn these into elements."""
    scripts = [*(ROOT / "segkit/widgets/page").glob("*.js"), *(ROOT / "segkit/dashboards/page").glob("*.js")]
    assert len(scripts) > 10
    ways = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|DOMParser|setHTML|createContextualFragment"
    )
    assert not [path.name for path in scripts if ways.search(path.read_text())]
    assert ways.search("element.innerHTML = name")


def test_no_cell_of_a_table_is_a_formula(kit: Kit, tmp_path: Path) -> None:
    run = kit.run(1)
    run.export("csv", tmp_path / "objects.csv")
    run.export("excel", tmp_path / "objects.xlsx")
    with open(tmp_path / "objects.csv", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    texts = [cell for cell in cells if not re.fullmatch(r"[-+]?[0-9.]+(e[-+]?\d+)?", cell)]
    assert [cell for cell in texts if "HYPERLINK" in cell]
    assert not [cell for cell in texts if re.match(r"\s*[=+\-@]|\t|\r", cell)]
    book = openpyxl.load_workbook(tmp_path / "objects.xlsx")
    values = [cell for sheet in book for row in sheet.iter_rows() for cell in row]
    assert [cell for cell in values if "HYPERLINK" in str(cell.value)]
    assert not [cell.value for cell in values if cell.data_type == "f" or cell.hyperlink]


def test_names_of_images_name_no_file_outside(kit: Kit, tmp_path: Path) -> None:
    kit.run(1).export("tiff", tmp_path / "out")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert written
    assert all(re.fullmatch(r"[\w.+-]+", path.name) for path in written)
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_secrets_are_in_no_word_about_the_settings(tmp_path: Path) -> None:
    urls = {"database_url": f"postgresql://me:{PASSWORD}@127.0.0.1:1/none", "redis_url": f"redis://:{PASSWORD}@127.0.0.1:1/0"}
    settings = load(home=str(tmp_path), token=TOKEN, **urls)
    words = [repr(settings), str(settings), str(explain(settings)), settings.model_dump_json()]
    assert not [each for each in words if PASSWORD in each or TOKEN in each]
    with pytest.raises(SegkitError) as refused, open_kit(settings) as kit:
        kit.projects()
    assert isinstance(refused.value, DatabaseError)
    error: BaseException | None = refused.value
    assert PASSWORD not in str(error)
    with pytest.raises(SegkitError) as bad:
        load(token="short-secret", database_url=f"nonsense://{PASSWORD}")
    assert "short-secret" not in str(bad.value)
    assert PASSWORD not in str(bad.value)


def test_tokens_are_in_no_log_and_only_as_hashes_in_the_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), service(load(home=str(tmp_path), token=TOKEN)) as client:
        kit: Kit = client.app.state.kit
        _, made = kit.new_token("reader")
        for token in (TOKEN, made, "a-wrong-token-0123456789"):
            client.get(f"/api/projects?token={token}")
            client.get(f"/nothing?token={token}", headers={"Accept": "text/html"})
            client.get("/nothing", headers={"Authorization": f"Bearer {token}"})
        with kit.database.read() as connection:
            stored = str(connection.exec_driver_sql("SELECT * FROM token").all())
        assert made not in stored
        assert "sha256:" in stored
    said = "\n".join(
        record.getMessage() + str(record.exc_info or "") for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))
    )
    assert "segkit" in " ".join(record.name for record in caplog.records)
    assert not [token for token in (TOKEN, made, "a-wrong-token-0123456789") if token in said]
