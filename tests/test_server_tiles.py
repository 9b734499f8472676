"""Thumbnails and tiles over HTTP: pictures that browsers can keep, and words for everything that is not there."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image as Picture

import segkit
from segkit.kit import Kit
from segkit.runs import Run
from segkit.server import problems, tiles
from segkit.settings import Settings
from tests.finished_runs import finish_run
from tests.live_service import serving


@pytest.fixture
def kit(make_settings: Callable[..., Settings]) -> Iterator[Kit]:
    with segkit.open(make_settings("sqlite").home) as kit:
        yield kit


@pytest.fixture
def run(kit: Kit) -> Run:
    return finish_run(kit, 1, size=600)


@pytest.fixture
def client(kit: Kit, run: Run) -> Iterator[httpx.Client]:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.kit = kit
        async with tiles.opened(app):
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(tiles.router)
    problems.install(app)
    with serving(app, lifespan="on") as service, httpx.Client(base_url=service.url) as client:
        yield client


def size_of(answer: httpx.Response) -> tuple[int, int]:
    assert answer.status_code == 200, answer.text
    size: tuple[int, int] = Picture.open(io.BytesIO(answer.content)).size
    return size


def test_thumbnails(client: httpx.Client, run: Run) -> None:
    image = next(run.results()).image.id
    assert size_of(client.get(f"/api/images/{image}/thumbnail")) == (256, 256)
    answer = client.get(f"/api/images/{image}/thumbnail?edge=64&form=png")
    assert size_of(answer) == (64, 64)
    assert answer.headers["content-type"] == "image/png"


def test_tiles_of_an_image(client: httpx.Client, run: Run) -> None:
    top = f"/api/images/{next(run.results()).image.id}/tiles"
    told = client.get(f"{top}?edge=256").json()
    assert (told["rows"], told["columns"], len(told["levels"])) == (600, 600, 3)
    assert told["levels"][1] == {"rows": 300, "columns": 300, "down": 2, "across": 2}
    assert size_of(client.get(f"{top}/0/2/0?edge=256")) == (88, 256)
    tile = client.get(f"{top}/2/0/0?edge=256&version={told['version']}")
    assert size_of(tile) == (150, 150)
    assert "immutable" in tile.headers["cache-control"]
    assert "immutable" not in client.get(f"{top}/2/0/0?edge=256&version=old").headers["cache-control"]
    again = client.get(f"{top}/2/0/0?edge=256", headers={"If-None-Match": tile.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_tiles_of_a_result(client: httpx.Client, run: Run) -> None:
    result = next(run.results())
    top = f"/api/runs/{run.number}/images/{result.image.id}/tiles"
    told = client.get(top).json()
    assert (told["rows"], told["edge"]) == (600, 512)
    assert size_of(client.get(f"{top}/1/0/0?style=fills&opacity=0.4")) == (300, 300)
    numbers = client.get(f"{top}/0/1/0?style=labels", headers={"Accept-Encoding": "gzip"})
    assert numbers.headers["content-encoding"] == "gzip"
    assert np.array_equal(np.frombuffer(numbers.content, "<u4").reshape(512, 88), result.labels()[:512, 512:])
    plain = client.get(f"{top}/0/1/0?style=labels", headers={"Accept-Encoding": "identity"})
    assert plain.content == numbers.content
    tag = client.get(f"{top}/0/0/0").headers["etag"]
    assert client.get(f"{top}/0/0/0", headers={"If-None-Match": tag}).status_code == 304
    finish_run(run.kit, 1, size=600, again=True)
    assert client.get(f"{top}/0/0/0", headers={"If-None-Match": tag}).status_code == 200


NOT_THERE = [
    "thumbnail?edge=0", "thumbnail?edge=99999", "thumbnail?channel=DAPI", "thumbnail?channel=9", "thumbnail?z=7",
    "thumbnail?z=volume", "thumbnail?time=3", "thumbnail?form=gif", "thumbnail?channel=%00", "tiles?edge=1", "tiles/0/9/0",
    "tiles/99/0/0", "tiles/-1/0/0", "tiles/x/0/0", "tiles/99999999999999999999999/0/0", "tiles/0/0/0?edge=-1",
    "tiles/0/0/0?time=99999999999999999999", "tiles/0/0/0?z=-1",
]  # fmt: skip


def test_what_is_not_there_is_told_in_words(client: httpx.Client, run: Run) -> None:
    image = next(run.results()).image.id
    for path in NOT_THERE:
        answer = client.get(f"/api/images/{image}/{path}")
        assert answer.status_code in (400, 422), path
        assert answer.headers["content-type"] == "application/problem+json"


def test_images_and_results_that_are_not_there(client: httpx.Client, run: Run) -> None:
    for path in (
        "/api/images/99/thumbnail",
        "/api/images/99/tiles",
        f"/api/runs/{run.number}/images/99/tiles",
        "/api/runs/99/images/1/tiles/0/0/0",
    ):
        assert client.get(path).status_code == 404


def test_open_images_are_bounded(kit: Kit, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "MOST_HELD", 3 * 600 * 600 * 2)
    finish_run(kit, 5, size=600)
    held = tiles.OpenImages()
    for image in kit.project("plate"):
        with held.opened(image) as opened:
            opened.image.plane()
    assert len(held._held) == 2
    held.close()
