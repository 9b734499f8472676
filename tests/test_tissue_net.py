"""The segmenter `tissue-net`: slides of many sizes, nothing where nothing is, the same in tiles, and a card of its weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from skimage import data
from test_tissue import FOLDER, slide

from segkit import segment
from segkit.errors import ModelFileError
from segkit.measure import measure, with_confidence
from segkit.scoring import pool, score
from segkit.segmenters import sight
from segkit.segmenters.network import NUCLEI, TISSUE, card_file, load_network, read_card
from segkit.segmenters.optional import file_hash
from segkit.segmenters.tissue_net import RECIPE, SEGMENTER, TissueNetParameters, plan_of
from segkit.tiling import segment_large
from segkit.training.pairs import part_of, read_folder
from tests.tiles_and_whole import Labels, Objects, save, shuffled

pytest.importorskip("onnxruntime", reason="skipped: onnxruntime is not installed")


@pytest.mark.parametrize("kind", ["color", "bright-gray"])
def test_real_slides_that_were_held_back(kind: str) -> None:
    if not FOLDER.is_dir():
        pytest.skip("skipped: no DSB2018 folder")
    images = read_folder(FOLDER, kind=kind, part="report")[: 10 if kind == "color" else 3]
    found = pool(score(image.labels, segment(coloured(image.pixels), SEGMENTER)) for image in images)
    assert found.at(0.5).f1 > {"color": 0.72, "bright-gray": 0.55}[kind]


def coloured(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1)


@pytest.mark.parametrize("radius", [7, 10, 18, 30])
def test_slides_with_nuclei_of_many_sizes(radius: int) -> None:
    image, truth = slide(radius=radius, shape=(320, 352), count=40 if radius < 12 else 14)
    assert score(truth, segment(image, SEGMENTER)).at(0.5).f1 > 0.75


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_of_one_colour_has_no_objects(value: int) -> None:
    assert segment(np.full((50, 70, 3), value, dtype=np.uint8), SEGMENTER).max() == 0


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 90, 3), (33, 17, 3)])
def test_small_and_odd_shapes_are_taken(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert segment(image, SEGMENTER).shape == shape[:2]


def test_a_dark_background_is_seen_and_can_be_told() -> None:
    image, _ = slide(pink=0.0)
    expected = segment(image, SEGMENTER, background="bright")
    assert expected.max() > 10
    np.testing.assert_array_equal(segment(255 - image, SEGMENTER, background="dark"), expected)
    np.testing.assert_array_equal(segment(255 - image, SEGMENTER), expected)


def test_a_size_that_is_told_is_taken() -> None:
    image, _ = slide(radius=10)
    assert 15 < plan_of(image, TissueNetParameters()).light.diameter < 30
    assert plan_of(image, TissueNetParameters(diameter=50)).light.diameter == 50


@pytest.mark.parametrize(("radius", "tile", "twice"), [(9, 192, True), (9, 256, False), (30, 320, True)])
def test_tiles_give_the_labels_and_the_table_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, radius: int, tile: int, twice: bool
) -> None:
    if not twice:  # as images are that are too large to be looked at twice
        monkeypatch.setattr(sight, "LOOKED_AT_TWICE", 1)
    pixels, _ = slide(seed=3, shape=(400, 450) if radius < 20 else (500, 560), count=60 if radius < 20 else 20, radius=radius)
    labels, objects = Labels.of(pixels.shape[:2], 64, 64), Objects()
    segment_large(
        save(tmp_path, pixels), SEGMENTER, SEGMENTER.parameters(),
        folder=str(tmp_path / "scratch"), labels=labels, objects=objects, tile=tile, executor=shuffled,
    )  # fmt: skip
    whole, confidence, _ = SEGMENTER.apply(SEGMENTER.prepare(pixels), SEGMENTER.parameters(), None)
    assert whole.max() > 8
    np.testing.assert_array_equal(labels.found, whole)
    assert RECIPE.plan(pixels, SEGMENTER.parameters()).scale.twice == twice
    expected: pa.Table = with_confidence(measure(whole), confidence)
    assert objects.table.sort_by("label").select(expected.column_names).to_pydict() == expected.to_pydict()


def test_brown_and_blue_of_immunohistochemistry_with_a_confidence_for_each() -> None:
    image = data.immunohistochemistry()[:256, :256]
    labels, confidence, told = SEGMENTER.apply(image, TissueNetParameters(), None)
    assert 40 < labels.max() < 350
    assert confidence is not None
    assert confidence.shape == (labels.max(),)
    assert ((confidence > 0) & (confidence <= 1)).all()
    assert set(told) == {"typical_diameter_px"}


def test_a_region_is_called_empty_only_when_nothing_in_it_is_looked_at() -> None:
    image = np.full((448, 512, 3), (238, 236, 240), np.uint8)
    image[70:250, 200:310] = slide(shape=(180, 110))[0]
    parameters, halo = TissueNetParameters(), RECIPE.survey_halo(TissueNetParameters())
    plan, emptied = RECIPE.plan(image, parameters), 0
    foreground = RECIPE.foreground(RECIPE.see(image, plan, 0, 0, None), plan, 0, 0)
    for top in range(0, 448, 64):
        for left in range(0, 512, 64):
            first, last = (max(top - halo, 0), max(left - halo, 0)), (min(top + 64 + halo, 448), min(left + 64 + halo, 512))
            margins = (top - first[0], left - first[1], last[0] - top - 64, last[1] - left - 64)
            survey = RECIPE.survey(image[first[0] : last[0], first[1] : last[1]], top, left, parameters, margins)
            if RECIPE.empty(survey, plan):
                emptied += 1
                assert not foreground[top : top + 64, left : left + 64].any()
    assert 30 < emptied < 52


# What it carries


def test_the_card_tells_where_the_weights_come_from() -> None:
    card = read_card(str(TISSUE.shipped), TISSUE)
    assert card["hash"] == file_hash(TISSUE.shipped.read_bytes())
    assert card["licence"] == "CC0 1.0"
    assert "BBBC038" in card["data"]
    assert card["trained_further"] == "nuclei-net"
    assert card["settings"]["segmenter"] == "tissue-net"
    assert set(card["scores"]) == {"validation", "held back"}
    assert TISSUE.shipped.stat().st_size < 5_000_000


def test_no_image_that_scores_are_reported_on_was_trained_on() -> None:
    card = read_card(str(TISSUE.shipped), TISSUE)
    seen, checked = set(card["trained_on"]), set(card["validated_on"])
    assert len(seen) > 30
    assert not seen & checked
    assert {part_of(name) for name in seen | checked} == {"tune"}


def test_a_network_for_nuclei_is_refused_in_words(tmp_path: Path) -> None:
    shutil.copy(NUCLEI.shipped, tmp_path / "ours.onnx")
    shutil.copy(card_file(str(NUCLEI.shipped)), tmp_path / "ours.card.json")
    with pytest.raises(ModelFileError, match="a network for tissue-net"):
        load_network(str(tmp_path / "ours.onnx"), None, TISSUE)
