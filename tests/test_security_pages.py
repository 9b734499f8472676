"""Names, parameters, errors and addresses that are scripts, in every page there is, in a real browser: they are shown, and nothing runs."""

from __future__ import annotations

import ast
import inspect
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import pytest
import tifffile
from browser import Watched, browser, free_port, serving, watch
from notebook_files import write_notebook
from plates import QUICK, squares
from playwright.sync_api import Browser, Dialog, Page
from plugins import install
from services import TOKEN, service

import segkit
from segkit import corrections, dashboards, history, jobs, reports, widgets
from segkit.batches.html import page_of
from segkit.cli.dashboards import command_of
from segkit.client import RemoteKit
from segkit.kit import Kit
from segkit.settings import load

__all__ = ["browser"]  # a fixture

pytestmark = [
    pytest.mark.timeout(240),
    # Panel's own, in the service that runs in this process.
    pytest.mark.filterwarnings("ignore:.*HTTPServerRequest:DeprecationWarning", "ignore:Widget.name:PendingDeprecationWarning"),
]

ROOT = Path(__file__).parent.parent
#: Who is asked for anything from here has been reached by a page. It is nobody: what a page wants from outside is noted and refused.
CANARY = "http://canary.example"
#: Templates of any kind would make this of `SUM`.
SUM, DONE = "111*1009", "111999"
#: Names of files hold no "/", and texts from outside are as long as they may be.
IMAGE = f"\"><img src=x onerror=ran(1)><svg onload=ran(2)>'`{{{{{SUM}}}}}${{{SUM}}}[m](javascript:ran(3)).tif"
PROJECT = f"</script><script>ran(4)</script><a href='javascript:ran(5)'>a</a><img src={CANARY}/p><b onmouseover=ran(6)>{{{{{SUM}}}}}</b>"
TEXT = (
    f"</textarea></title></style></script><script>ran(7)</script><iframe srcdoc='<script>parent.ran(8)</script>'></iframe>"
    f"<img src={CANARY}/t onerror=ran(9)><style>@import '{CANARY}/s';</style><details open ontoggle=ran(10)>x</details>"
    f"<script src={CANARY}/j></script><!--{{%print({SUM})%}}--> {{{{{SUM}}}}} ${{{SUM}}} <%= {SUM} %> $$\\href{{javascript:ran(11)}}{{m}}$$"
    f" [m](javascript:ran(12)) ![m]({CANARY}/m) \u2028<math><mtext></form><mglyph><style></math><img src onerror=ran(13)>"
)
SCRIPTED = quote(f'"><script>ran(14)</script><img src=x onerror=ran(15)>{PROJECT}', safe="")

HOSTILE = """
from scipy import ndimage
from segkit.segmenters import Parameters, Segmenter, parameter

class HostileParameters(Parameters):
    note: str = parameter("", "A text of any kind.")

def label_or_complain(pixels, parameters, pixel_size_um):
    if pixels.max() < 100:
        raise ValueError(parameters.note)
    return ndimage.label(pixels > 100)[0].astype("int32")

SEGMENTER = Segmenter("hostile", "1", "Labels what is bright, and complains of what is dark", HostileParameters, colour=False,
                      function=label_or_complain)
"""

#: A notebook with every widget and everything that shows itself.
CELLS = [
    "import segkit\nfrom segkit import widgets\n"
    "kit = segkit.open()\nproject, run = kit.project_numbered(1), kit.run(1)\nimage = next(iter(project))\n"
    "widgets.Queue(kit, run, height=140)",
    "widgets.Browser(project, run)",
    "widgets.Gallery(project, run)",
    "widgets.Viewer(image, run)",
    "widgets.Tuner(project, 'threshold', image)",
    "widgets.Editor(run, image, who=kit.run(2).record.parameters['note'])",
    "widgets.Painter(image, 'cells', height=200)",
    "segkit.report(kit.run(2)).failures",
    "kit.run(2)",
    "project",
]

#: What stands in a page, through shadow roots and frames: its words, and attributes and addresses that would run.
LOOK = """() => {
  const words = [], found = [];
  const look = (root) => {
    words.push(root.body ? root.body.innerText : root.textContent);
    for (const node of root.querySelectorAll("*")) {
      for (const { name, value } of node.attributes) {
        const runs = (/^on/i.test(name) && /ran\\(/.test(value)) || /^[\\s\\x00-\\x20]*javascript:/i.test(value);
        if (runs) found.push(`${node.tagName} ${name}=${value}`);
      }
      if (node.matches("input, textarea, select")) words.push(node.value);
      if (node.shadowRoot) look(node.shadowRoot);
      if (node.contentDocument && /srcdoc|blob:/.test(node.outerHTML.slice(0, 300))) found.push("a frame of its own");
    }
  };
  look(document);
  return [words.join(" "), found];
}"""


@dataclass
class Site:
    """Where all the pages are, and what they show."""

    service: str
    guarded: str  #: a service that asks for a token
    voila: str
    kit: Kit
    remote: RemoteKit
    report: str  #: the executed notebook of a report, as a page


@dataclass
class Visit:
    """A page that is open, and what ran on it."""

    watched: Watched
    ran: list[Any] = field(default_factory=list)

    @property
    def page(self) -> Page:
        return self.watched.page


def hostile_kit(folder: Path) -> Kit:
    """Make a project in which every text that a person, a file or a fault can bring is a script."""
    plate = folder / "plate"
    plate.mkdir()
    for number in range(3):
        tifffile.imwrite(plate / f"{number}{IMAGE}", squares(3 - number) if number < 2 else squares(0))
    settings = load(home=str(folder / "home"), **QUICK)
    kit = segkit.open(settings.home, **QUICK)
    project = kit.project(PROJECT, create=True)
    project.add(plate, pixel_size_um=0.5)
    done = project.segment("threshold")
    failing = project.segment("hostile", note=TEXT)
    (plate / f"1{IMAGE}").write_bytes(b"II*\0")  # what is replaced is complained of by its name
    kit.work_off([done, failing])
    correction = corrections.Correction(kit.database, kit.settings, done.number, next(iter(done.results())).image.id)
    correction.edits.delete([1])
    correction.save(TEXT, TEXT)
    project.segment("threshold", sigma=2.0)
    with kit.database.write() as connection:
        jobs.claim(connection, TEXT[:200], 1, 3600)
        for part in ("worker", "server"):
            measured = {f"images.{TEXT}_total": 120.0, f"seconds.{TEXT}_total": 60.0, "peak_memory_bytes": 2.0**30}
            history.record(connection, f"{part} {TEXT[:100]}", measured, at=datetime.now(UTC))
    return kit


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, port = tmp_path_factory.mktemp("pages"), free_port()
    shown, home = folder / "notebooks", str(folder / "home")
    shown.mkdir()
    for path in (ROOT / "dashboards").glob("*.ipynb"):
        (shown / path.name).write_text(path.read_text())
    write_notebook(shown / "widgets.ipynb", *CELLS, parameters=None)
    # Voila as `segkit voila` starts it, but for the folder, and for kernels that are not kept warm here.
    given = [str(shown) if each.endswith("dashboards") else each for each in command_of(port, show=False)]
    voila = [each.replace("preheat_kernel=True", "preheat_kernel=False") for each in given[2:]]
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.syspath_prepend(str(install(folder / "plugin", "hostile", HOSTILE)))
        kit = stack.enter_context(hostile_kit(folder))
        report = kit.batch(ROOT / "notebooks" / "report_run.ipynb", {"home": home, "run": 2}).wait()
        places = {"JUPYTER_CONFIG_PATH": str(ROOT / "conf"), "JUPYTER_PATH": str(ROOT / "conf"), "SEGKIT_HOME": home}
        for name, value in places.items():
            patch.setenv(name, value)
        server = stack.enter_context(serving(voila, folder, port, "/"))
        for name in places:
            patch.delenv(name)
        plain = stack.enter_context(service(load(home=home, **QUICK)))
        guarded = stack.enter_context(service(load(home=str(folder / "guarded"), token=TOKEN, **QUICK)))
        remote = stack.enter_context(segkit.open(str(plain.base_url).rstrip("/")))
        page = Path(report.page).read_text()
        yield Site(str(plain.base_url).rstrip("/"), str(guarded.base_url).rstrip("/"), server.url, kit, remote, page)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """A page on which every script that was brought along is noted: by what it calls, by what it says, and by whom it asks."""
    visit = Visit(watch(browser))

    def dismissed(dialog: Dialog) -> None:
        visit.ran.append(dialog.message)
        dialog.dismiss()

    visit.page.context.expose_function("ran", lambda what: visit.ran.append(what))
    visit.page.on("dialog", dismissed)
    yield visit
    visit.page.context.close()


# Pages, and what a person does there


def show_queue(site: Site, page: Page) -> None:
    page.goto(f"{site.service}/dashboards/queue_status?run=2&x={SCRIPTED}#{SCRIPTED}")
    page.locator(".sk-failures .sk-link").first.click()
    page.locator(".sk-detail .sk-reason").wait_for()
    page.locator(".sk-jobs-row").first.click()
    page.locator("[data-card=runs] [data-do]:visible").first.click()
    page.keyboard.press("Escape")


def show_results(site: Site, page: Page) -> None:
    page.goto(f"{site.service}/dashboards/results?run=1&x={SCRIPTED}")
    page.locator(".sk-gallery b").first.wait_for()
    page.locator(".sk-exports button").first.click()
    page.locator(".sk-exports a").wait_for()


def show_performance(site: Site, page: Page) -> None:
    page.goto(f"{site.service}/dashboards/performance?x={SCRIPTED}")
    page.wait_for_selector(".sk-plot svg")


def show_front(site: Site, page: Page) -> None:
    page.goto(f"{site.service}/?x={SCRIPTED}#{SCRIPTED}")


def show_login(site: Site, page: Page) -> None:
    for path in (f"/{SCRIPTED}", f"/?token={SCRIPTED}", f"//{SCRIPTED}", f"/dashboards/queue_status?x={SCRIPTED}", f"/?x={SCRIPTED}"):
        page.goto(f"{site.guarded}{path}")
        assert page.locator("input[name=token]").count() == 1


def show_faults(site: Site, page: Page) -> None:
    for path in (
        f"/{SCRIPTED}",
        f"/api/projects?limit={SCRIPTED}",
        f"/dashboards/{SCRIPTED}",
        f"/static/{SCRIPTED}",
        "/api/jobs/3",
        "/api/runs/2",
    ):
        page.goto(f"{site.service}{path}")


def show_voila_tree(site: Site, page: Page) -> None:
    for path in ("/", f"/voila/tree/{SCRIPTED}", f"/voila/render/{SCRIPTED}.ipynb", "/voila/tree"):
        page.goto(f"{site.voila}{path}?theme={SCRIPTED}&template={SCRIPTED}&x={SCRIPTED}&classic-tree=true")


def show_voila_queue(site: Site, page: Page) -> None:
    page.goto(f"{site.voila}/voila/render/queue_status.ipynb?theme={SCRIPTED}&template={SCRIPTED}&x={SCRIPTED}", wait_until="commit")
    page.locator(".sk-failures .sk-link").first.click()
    page.locator(".sk-detail .sk-reason").wait_for()
    page.locator(".sk-jobs-row").first.click()


def show_voila_performance(site: Site, page: Page) -> None:
    page.goto(f"{site.voila}/voila/render/performance.ipynb?theme={SCRIPTED}", wait_until="commit")
    page.wait_for_selector(".sk-plot svg")


def show_widgets(site: Site, page: Page) -> None:
    page.goto(f"{site.voila}/voila/render/widgets.ipynb", wait_until="commit")
    page.get_by_role("group", name="Classifier painter").wait_for()
    page.wait_for_selector(".sk[data-listed]")
    page.locator("[data-image]").first.press("Enter")
    page.wait_for_selector("[aria-label='Image viewer'][data-drawn]")


def show_report(site: Site, page: Page) -> None:
    page.goto(f"{site.service}/")  # as if it had the service's own site, where a script could do most
    page.set_content(site.report)


def show_notebook(site: Site, page: Page) -> None:
    """An executed notebook that was given a script for a parameter, printed it, and failed with it."""
    cell = nbformat.v4.new_code_cell(f"name = {TEXT!r}", metadata={"tags": ["injected-parameters"]})
    failed = nbformat.v4.new_output("error", ename=TEXT, evalue=TEXT, traceback=[f"\x1b[31m{TEXT}\x1b[0m"])
    said = [nbformat.v4.new_output("stream", name=name, text=TEXT) for name in ("stdout", "stderr")]
    shown = nbformat.v4.new_output("execute_result", data={"text/plain": TEXT}, execution_count=1)
    cell.outputs = [*said, shown, failed]
    page.goto(f"{site.service}/")
    page.set_content(page_of(nbformat.v4.new_notebook(cells=[cell]), PROJECT))


def show_themselves(site: Site, page: Page) -> None:
    page.goto(f"{site.service}/")
    page.set_content(" ".join(each._repr_html_() for each in showing(site)))


def showing(site: Site) -> list[Any]:
    """Everything that shows itself in a notebook, of a kit here and of one over HTTP."""
    local: list[Any] = [site.kit, site.kit.project_numbered(1), *site.kit.project_numbered(1), *map(site.kit.run, (1, 2, 3))]
    report = reports.report(site.kit.run(2))
    local += [report.summary, report.counts, report.worst(), report.best(), report.failures, report.provenance, site.kit.find_batch(1)]
    remote = site.remote
    local += [remote, remote.project_numbered(1), *remote.project_numbered(1), remote.image(1), remote.run(2)]
    return [each for each in local if hasattr(each, "_repr_html_")]


#: Every page by its name, and whether it shows what came from outside. A test below compares the names with the pages that there are.
PAGES: dict[str, tuple[Callable[[Site, Page], None], bool]] = {
    "server/front.py": (show_front, False),
    "server/auth.py": (show_login, False),
    "server/problems.py": (show_faults, True),
    "dashboards/queue_status.py": (show_queue, True),
    "dashboards/results.py": (show_results, True),
    "dashboards/performance.py": (show_performance, True),
    "dashboards/queue_status.ipynb": (show_voila_queue, True),
    "dashboards/performance.ipynb": (show_voila_performance, True),
    "voila": (show_voila_tree, False),
    "widgets": (show_widgets, True),
    "notebooks/report_run.ipynb": (show_report, True),
    "batches/html.py": (show_notebook, True),
    "_repr_html_": (show_themselves, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_nothing_that_somebody_else_wrote_runs(site: Site, visit: Visit, name: str) -> None:
    show, shows = PAGES[name]
    show(site, visit.page)
    deadline = time.monotonic() + 10
    words, dangers = visit.page.evaluate(LOOK)
    while shows and "ran(" not in words and time.monotonic() < deadline:
        visit.page.wait_for_timeout(100)
        words, dangers = visit.page.evaluate(LOOK)
    visit.page.wait_for_timeout(300)  # a picture that is not there fails a moment later
    words, dangers = visit.page.evaluate(LOOK)
    assert visit.ran == []
    assert dangers == []
    assert [each for each in visit.watched.outside if "font-awesome" not in each] == [], "Voila's own list of pages alone asks for a font"
    assert DONE not in words, "a template took a text for its own"
    assert "ran(" in words or not shows, "the texts were not even shown"


def test_what_is_looked_for_would_be_found(visit: Visit) -> None:
    """With the texts as they are, in a page that does not escape them, all of it is noticed."""
    visit.page.goto("about:blank")
    visit.page.set_content(f"<p>{TEXT}{PROJECT}{IMAGE}", wait_until="commit")
    visit.page.wait_for_timeout(1000)
    words, dangers = visit.page.evaluate(LOOK)
    assert {1, 2, 4, 9} <= set(visit.ran)
    assert len(dangers) >= 5
    assert [each for each in visit.watched.outside if each.startswith(CANARY)]
    assert SUM in words


def test_every_page_is_on_the_list() -> None:
    files = {f"dashboards/{path.name}" for path in (ROOT / "dashboards").iterdir() if path.suffix in (".py", ".ipynb")}
    assert files == {name for name in PAGES if name.startswith("dashboards/")}
    assert {f"dashboards/{name}.py" for name in dashboards.paths()} <= set(PAGES)
    written = {path.relative_to(ROOT / "segkit") for path in (ROOT / "segkit").rglob("*.py") if "<!doctype html" in path.read_text()}
    assert {path.as_posix() for path in written} <= set(PAGES), "a page of the service that is not opened here"
    assert all(f"widgets.{name}(" in "\n".join(CELLS) for name in widgets.__all__), "a widget that is not opened here"


@pytest.mark.slow
def test_everything_that_shows_itself_is_shown_here(site: Site) -> None:
    there = set()
    for path in (ROOT / "segkit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any(getattr(each, "name", "") == "_repr_html_" for each in node.body):
                there.add(f"{path.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')}.{node.name}")
    shown = {f"{inspect.getmodule(kind).__name__}.{kind.__name__}" for each in showing(site) for kind in type(each).__mro__}  # type: ignore[union-attr]
    assert there - shown == set()
    assert sys.modules["hostile_kit"], "the segmenter that complains is the one of this test"
