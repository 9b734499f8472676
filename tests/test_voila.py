"""Voila as `segkit voila` starts it: what becomes of a page's kernel."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from segkit.cli.dashboards import command_of
from tests.browser import ROOT, Server, browser, free_port, serving
from tests.notebook_files import write_notebook
from tests.test_widgets import wait_until

__all__ = ["browser"]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Voila over one small notebook, without kernels that wait."""
    write_notebook(tmp_path / "plain.ipynb", "import ipywidgets\nipywidgets.HTML('<b class=\"plain\">here</b>')", parameters=None)
    port = free_port()
    command = [str(tmp_path) if each.endswith("dashboards") else each for each in command_of(port, show=False)[2:]]
    command = [each.replace("preheat_kernel=True", "preheat_kernel=False") for each in command]
    for name in ("JUPYTER_CONFIG_PATH", "JUPYTER_PATH"):
        monkeypatch.setenv(name, str(ROOT / "conf"))
    with serving(command, tmp_path, port, "/") as server:
        yield server


def kernel_of(page: Page, server: Server) -> str:
    """Open the notebook; the address of its kernel."""
    page.goto(f"{server.url}/voila/render/plain.ipynb")
    page.wait_for_selector(".plain", timeout=60_000)
    said = json.loads(page.text_content("#jupyter-config-data") or "")
    return f"{server.url}/api/kernels/{said['kernelId']}"


def test_the_kernel_of_a_page_that_was_left_ends(server: Server, browser: Browser) -> None:
    context = browser.new_context()  # a browser that was never here: it has no cookie of Voila's
    page = context.new_page()
    address = kernel_of(page, server)
    assert context.request.get(address).status == 200
    page.wait_for_function("document.cookie.includes('_xsrf')")
    page.goto("about:blank")
    wait_until(lambda: context.request.get(address).status == 404, seconds=15)
    context.close()


@pytest.mark.slow
def test_a_page_asks_for_its_scripts_at_once_when_it_comes_back(server: Server, browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    preloaded = "[...document.querySelectorAll('link[rel=preload][as=script]')].map(each => new URL(each.href).pathname)"
    for stored in (None, "no JSON", '{"a": 1}', '[1, "//elsewhere.org/a.js", "javascript:1"]'):
        kernel_of(page, server)
        assert page.evaluate(preloaded) == []
        page.goto(f"{server.url}/voila/static/voila.js")  # the page is left, and keeps what it needed
        if stored is not None:
            page.evaluate("stored => localStorage.setItem('segkit-scripts', stored)", stored)
        else:
            assert len(json.loads(page.evaluate("localStorage.getItem('segkit-scripts')"))) > 20
            page.evaluate("localStorage.clear()")
    kernel_of(page, server)
    page.goto(f"{server.url}/voila/static/voila.js")
    failed: list[str] = []
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
    kernel_of(page, server)
    asked = page.evaluate(preloaded)
    assert len(asked) > 20
    assert any("labextensions" in path for path in asked)
    assert failed == []
    context.close()
