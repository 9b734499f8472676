"""Widgets and notebooks as a person meets them: in Voila and JupyterLab, in a real browser. Pictures are kept in `artefacts/`."""

from __future__ import annotations

from typing import Any

import pytest
import tifffile
from playwright.sync_api import Locator, Page, expect

import segkit
from segkit.synthetic import nuclei_field
from tests.browser import ROOT, Server, Watched, browser, dark, lab_server, voila_server, watched
from tests.plates import QUICK

__all__ = ["browser", "dark", "lab_server", "voila_server", "watched"]

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A finished run over four images, and the parameters that lead notebooks to it."""
    place = tmp_path_factory.mktemp("plate")
    (place / "images").mkdir()
    for number in range(4):
        tifffile.imwrite(place / "images" / f"{number}.tif", nuclei_field((300, 400), 60, seed=number).image)
    with segkit.open(place / "home", **QUICK) as kit:
        project = kit.project("plate", create=True)
        project.add(place / "images", pixel_size_um=0.5)
        project.segment("threshold").work_off()
    return {"home": str(place / "home"), "project": "plate", "images": str(place / "images" / "*.tif"), "segmenter": "threshold"}


def see(watched: Watched, server: Server, name: str) -> Page:
    """Open a notebook in Voila and wait for its widgets."""
    watched.page.goto(f"{server.url}/voila/render/{name}", wait_until="commit")
    return watched.page


def slide(tuner: Locator, before: str) -> None:
    """Move a slider with the keyboard until the number of objects is another one; a page that still loads may take it back once."""
    slider = tuner.get_by_label("sigma (px)", exact=True)
    for _ in range(3):
        slider.focus()
        slider.press("End")
        for _ in range(50):
            if tuner.get_attribute("data-objects") != before:
                return
            tuner.page.wait_for_timeout(200)
    raise AssertionError("The slider changed nothing.")


def nothing_failed(watched: Watched) -> None:
    assert watched.faults == []
    assert not [address for address in watched.outside if "fontawesome" not in address], "Voila's own page alone asks for a font"


@pytest.mark.slow
def test_in_tune_segmenter_a_slider_changes_the_labels(voila_server: Server, watched: Watched, home: dict[str, Any]) -> None:
    name = voila_server.put("tune", ROOT / "notebooks" / "tune_segmenter.ipynb", **home)
    page = see(watched, voila_server, name)
    tuner = page.get_by_role("group", name="Segmentation tuner")
    page.wait_for_function("document.querySelector('.sk[data-objects]')?.dataset.objects > 10")
    page.wait_for_selector(".sk-picture[data-drawn]")
    before, picture = tuner.get_attribute("data-objects"), tuner.locator("canvas").screenshot()
    watched.keep("tune_segmenter_before")
    slide(tuner, before or "")
    page.wait_for_selector(".sk-picture[data-drawn]")
    assert tuner.locator("canvas").screenshot() != picture
    watched.keep("tune_segmenter_after")
    tuner.get_by_role("button", name="Apply to project").click()
    expect(tuner.get_by_text("is queued: 4 images")).to_be_visible()
    nothing_failed(watched)


@pytest.mark.slow
def test_in_correct_objects_merging_changes_the_table(voila_server: Server, dark: Watched, home: dict[str, Any]) -> None:
    name = voila_server.put("correct", ROOT / "notebooks" / "correct_objects.ipynb", **home, who="Anna")
    with segkit.open(home["home"], **QUICK) as kit:
        found = kit.run(1).progress().objects
    page = see(dark, voila_server, f"{name}?theme=dark")
    editor = page.get_by_role("group", name="Object editor")
    page.wait_for_selector(".sk[data-listed]")
    before = int(editor.get_attribute("data-listed") or 0)
    page.wait_for_selector("[data-label='2']")
    area = editor.locator("[data-label='1'] span").nth(1).inner_text()
    for label in (1, 2):
        editor.locator(f"[data-label='{label}']").click()
    editor.get_by_role("button", name="Merge").click()
    expect(editor).to_have_attribute("data-listed", str(before - 1))
    expect(editor.locator("[data-label='2']")).to_have_count(0)
    expect(editor.locator("[data-label='1'] span").nth(1)).not_to_have_text(area)
    editor.scroll_into_view_if_needed()
    dark.keep("correct_objects_merged")
    editor.get_by_role("button", name="Undo").click()
    expect(editor).to_have_attribute("data-listed", str(before))
    editor.get_by_role("button", name="Redo").click()
    editor.get_by_label("Note").fill("one nucleus")
    editor.get_by_role("button", name="Save version").click()
    expect(editor.get_by_text("Version 1 is saved")).to_be_visible()
    nothing_failed(dark)
    with segkit.open(home["home"], **QUICK) as kit:
        assert kit.run(1).progress().objects == found - 1, "the run shows the version that was saved"


CELLS = [
    """
import segkit
from segkit import widgets
kit = segkit.open({home!r})
plate = kit.project("plate")
run = kit.run(1)
widgets.Queue(kit, run, height=140)
""",
    "widgets.Browser(plate, run)",
    "widgets.Painter(next(iter(plate)), 'cells', height=260)",
]


def test_queue_gallery_viewer_and_painter_in_one_page(voila_server: Server, watched: Watched, home: dict[str, Any]) -> None:
    name = voila_server.put("all", [cell.format(**home) for cell in CELLS])
    page = see(watched, voila_server, name)
    page.set_viewport_size({"width": 1280, "height": 1700})
    queue = page.get_by_role("group", name="Queue")
    expect(queue).to_have_attribute("data-ended", "4")
    expect(queue.locator("[data-job]")).to_have_count(4)
    expect(queue.locator("[data-job]").first).to_contain_text("done")
    page.wait_for_function("[...document.querySelectorAll('.sk')].some(node => node.dataset.pictures === '4')")
    page.locator("[data-image]").first.press("Enter")
    viewer = page.get_by_role("group", name="Image viewer")
    page.wait_for_selector("[aria-label='Image viewer'][data-drawn]")
    # the whole of an object is measured where the mouse points at it
    box = viewer.locator("canvas").bounding_box()
    assert box is not None
    for step in range(200):
        page.mouse.move(box["x"] + box["width"] * (0.3 + 0.4 * (step % 20) / 20), box["y"] + box["height"] * (0.1 + 0.08 * (step // 20)))
        if viewer.locator(".sk-tip").is_visible():
            break
    expect(viewer.locator(".sk-tip")).to_contain_text("area, µm²")
    painter = page.get_by_role("group", name="Classifier painter")
    painter.get_by_role("button", name="object").click()
    spot = painter.locator("canvas").bounding_box()
    assert spot is not None
    page.mouse.move(spot["x"] + spot["width"] / 2, spot["y"] + 60)
    page.mouse.down()
    page.mouse.move(spot["x"] + spot["width"] / 2 + 40, spot["y"] + 80, steps=4)
    page.mouse.up()
    expect(painter.get_by_text("px object")).to_be_visible()
    painter.get_by_role("button", name="Train").click()
    expect(painter.get_by_text("Paint some background")).to_be_visible()
    watched.keep("queue_gallery_viewer_painter")
    nothing_failed(watched)


@pytest.mark.slow
def test_in_jupyterlab_too(lab_server: Server, watched: Watched, home: dict[str, Any]) -> None:
    name = lab_server.put("tune", ROOT / "notebooks" / "tune_segmenter.ipynb", **home)
    page = watched.page
    page.goto(f"{lab_server.url}/lab/tree/{name}")
    run_all_cells(page)
    page.wait_for_function("document.querySelector('.sk[data-objects]')?.dataset.objects > 10")
    tuner = page.get_by_role("group", name="Segmentation tuner")
    before = tuner.get_attribute("data-objects")
    slide(tuner, before or "")
    tuner.scroll_into_view_if_needed()
    page.wait_for_selector(".sk-picture[data-drawn]")
    watched.keep("tune_segmenter_lab")
    nothing_failed(watched)


def run_all_cells(page: Page) -> None:
    """Run a notebook in JupyterLab, which may ask first with which kernel."""
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    asked, idle = page.get_by_role("button", name="Select", exact=True), page.get_by_text("| Idle")
    expect(asked.or_(idle).first).to_be_visible()
    page.wait_for_timeout(1000)
    if asked.is_visible():
        asked.click()
    expect(idle).to_be_visible()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
