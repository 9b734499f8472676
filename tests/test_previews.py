"""What a notebook shows: pictures and tables in HTML, in which nothing from outside becomes markup."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from segkit.previews import EDGE, Gallery, Tile, facts_html, oddest, picked, rows_html

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>&amp;'


class Reader(HTMLParser):
    """Collects the tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.sources: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value or "" for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    "page",
    [
        Gallery((Tile(EVIL, EVIL, np.zeros((4, 4), np.uint8)), Tile(EVIL, EVIL)))._repr_html_(),
        facts_html(EVIL, {EVIL: EVIL, "number": 1.5, "nothing": None}),
        rows_html([EVIL], [[EVIL], [None], [3]]),
    ],
)
def test_text_from_outside_stays_text(page: str) -> None:
    read = Reader(page)
    assert EVIL in read.text
    assert "script" not in read.tags
    assert not read.attributes & {"onerror", "onclick"}
    assert all(source.startswith("data:image/png;base64,") for source in read.sources)


def test_a_picture_lies_inside_the_page() -> None:
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    (source,) = Reader(Gallery((Tile("a", "b", picture),))._repr_html_()).sources
    data = base64.b64decode(source.partition(",")[2])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), picture)


def test_a_gallery_reads_well_without_a_browser() -> None:
    assert repr(Gallery((Tile("a.tif", "3 objects"), Tile("b.tif", "gone")))) == "a.tif: 3 objects\nb.tif: gone"
    assert repr(Gallery(())) == "nothing to show"
    assert "nothing to show" in Gallery(())._repr_html_()


def test_long_reasons_are_cut() -> None:
    assert len(re.sub("<[^>]*>", "", Gallery((Tile("a", "x" * 5000),))._repr_html_())) < 400


def test_labels_keep_their_numbers_when_made_smaller() -> None:
    labels = np.zeros((1000, 500), np.int32)
    labels[:500] = 70_000
    small = picked(labels, (EDGE, EDGE // 2))
    assert small.shape == (256, 128)
    assert set(np.unique(small)) == {0, 70_000}
    np.testing.assert_array_equal(picked(labels, labels.shape), labels)


NAN = float("nan")


@pytest.mark.parametrize(
    ("looks", "count", "chosen"),
    [
        ([(100, 50.0), (90, 52.0), (0, NAN), (110, 250.0)], 2, [2, 3]),
        ([(0, NAN), (0, NAN)], 5, [0, 1]),
        ([(10, 50.0), (10, 50.0), (10, 10.0), (11, 50.0)], 1, [2]),
        ([(10, 50.0)], 0, []),
        ([], 3, []),
    ],
)
def test_the_oddest_come_first(looks: list[tuple[int, float]], count: int, chosen: list[int]) -> None:
    assert oddest(looks, count) == chosen


def test_the_least_sure_come_first_whatever_else_is_odd_about_them() -> None:
    looks = [(100, 50.0), (90, 52.0), (0, float("nan")), (110, 250.0), (100, 51.0)]
    assert oddest(looks, 5, [0.8, 0.5, float("nan"), 0.9, 0.7]) == [2, 1, 4, 0, 3], "after those in which nothing was found"
    assert oddest(looks, 2, [float("nan")] * 5) == [2, 3], "where it does not say, as without"
