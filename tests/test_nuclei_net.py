"""The segmenter `nuclei-net`: nuclei of many sizes, nothing where nothing is, the same in tiles, and no network but the one asked for."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from segkit import segment
from segkit.errors import InvalidParameterError, InvertedContrastError, ModelFileError
from segkit.measure import measure, with_confidence
from segkit.scoring import score
from segkit.segmenters import parse_parameters, sight
from segkit.segmenters.network import NUCLEI, STRIDE, card_file, load_network, read_card
from segkit.segmenters.nuclei_net import RECIPE, SEGMENTER, NucleiNetParameters
from segkit.segmenters.optional import file_hash
from segkit.synthetic import nuclei_field
from segkit.tiling import segment_large
from segkit.training.pairs import part_of
from tests.tiles_and_whole import Labels, Objects, save, shuffled

pytest.importorskip("onnxruntime", reason="skipped: onnxruntime is not installed")

MODEL = "nuclei_net.onnx"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the shipped network, to be spoilt."""
    shutil.copy(NUCLEI.shipped, tmp_path / MODEL)
    shutil.copy(card_file(str(NUCLEI.shipped)), card_file(str(tmp_path / MODEL)))
    return tmp_path / MODEL


@pytest.mark.parametrize("diameter", [8, 14, 22, 45, 80])
def test_nuclei_of_many_sizes_are_found(diameter: float) -> None:
    field = nuclei_field((384, 384), 40 if diameter < 40 else 12, diameter=diameter, seed=int(diameter))
    assert score(field.truth, segment(field.image, SEGMENTER)).at(0.5).f1 > 0.85


@pytest.mark.parametrize("value", [0, 1, 700, 65535])
def test_a_flat_image_has_no_nuclei(value: int) -> None:
    assert segment(np.full((96, 128), value, np.uint16), SEGMENTER).max() == 0


@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_has_no_nuclei(seed: int) -> None:
    noise = np.random.default_rng(seed).poisson(100, (256, 256)).astype(np.uint16)
    assert segment(noise, SEGMENTER).max() == 0


@pytest.mark.parametrize(
    "convert", [lambda image: image / 65535.0, lambda image: (image // 300).astype(np.uint8), lambda image: image * 1e6 - 5]
)
def test_any_type_and_range_will_do(convert: Any) -> None:
    field = nuclei_field((256, 256), 25, seed=2)
    assert score(field.truth, segment(convert(field.image), SEGMENTER)).at(0.5).f1 > 0.85


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (33, 17)])
def test_small_and_odd_shapes_are_taken(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    assert segment(image, SEGMENTER).shape == shape


def test_dark_nuclei_are_refused_in_words_and_found_when_told_of() -> None:
    field = nuclei_field((256, 256), 25, seed=2)
    inverted = np.uint16(field.image.max()) - field.image
    with pytest.raises(InvertedContrastError, match='objects="dark"'):
        segment(inverted, SEGMENTER)
    assert score(field.truth, segment(inverted, SEGMENTER, objects="dark")).at(0.5).f1 > 0.85


def test_threads_agree() -> None:
    image = nuclei_field((200, 230), 25, seed=3).image
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda one: segment(one, SEGMENTER), [image] * 8))
    assert all(np.array_equal(each, results[0]) for each in results)


@pytest.mark.parametrize(("diameter", "tile", "twice"), [(18, 192, True), (18, 256, False), (7, 192, True), (60, 320, True)])
def test_tiles_give_the_labels_and_the_table_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, diameter: int, tile: int, twice: bool
) -> None:
    shape = {7: (290, 330), 18: (400, 450), 60: (600, 700)}[diameter]
    if not twice:  # as images are that are too large to be looked at twice
        monkeypatch.setattr(sight, "LOOKED_AT_TWICE", 1)
    pixels = nuclei_field(shape, 70 if diameter < 40 else 30, diameter=diameter, touching=0.5, seed=5).image
    labels, objects = Labels.of(pixels.shape, 64, 64), Objects()
    segment_large(
        save(tmp_path, pixels), SEGMENTER, SEGMENTER.parameters(),
        folder=str(tmp_path / "scratch"), labels=labels, objects=objects, tile=tile, executor=shuffled,
    )  # fmt: skip
    whole, confidence, _ = SEGMENTER.apply(SEGMENTER.prepare(pixels), SEGMENTER.parameters(), None)
    np.testing.assert_array_equal(labels.found, whole)
    assert RECIPE.plan(pixels, SEGMENTER.parameters()).scale.twice == twice
    expected: pa.Table = with_confidence(measure(whole, pixels), confidence)
    assert objects.table.sort_by("label").to_pydict() == expected.to_pydict()


def test_what_it_says_reaches_no_farther_than_it_claims() -> None:
    run, draw = load_network().run, np.random.default_rng(0)
    plane = draw.standard_normal((384, 416)).astype(np.float32)
    whole, part = run(plane), run(np.ascontiguousarray(plane[4 * STRIDE :, 2 * STRIDE : -STRIDE]))
    np.testing.assert_array_equal(part[:, 112:, 112:-112], whole[:, 4 * STRIDE + 112 :, 2 * STRIDE + 112 : -STRIDE - 112])


def test_each_object_has_a_confidence_and_a_faint_smear_a_low_one() -> None:
    field = nuclei_field((256, 256), 25, touching=0, seed=6)
    labels, confidence, _ = SEGMENTER.apply(field.image, NucleiNetParameters(), None)
    assert confidence is not None
    assert confidence.shape == (labels.max(),)
    assert ((confidence > 0) & (confidence <= 1)).all()
    assert np.median(confidence) > 0.5


def test_confidence_does_not_depend_on_the_others() -> None:
    field = nuclei_field((200, 200), 20, seed=7)
    plan = RECIPE.plan(field.image, NucleiNetParameters())
    labels, confidence = RECIPE.judge(field.image, plan)
    seen = RECIPE.see(field.image, plan, 0, 0, None)
    assert RECIPE.confidence is not None
    assert confidence is not None
    alone = RECIPE.confidence(seen, np.where(labels == 3, np.int32(1), np.int32(0)), slice(0, 200), slice(0, 200))
    assert alone[0] == confidence[2]


# What it carries


def test_the_card_tells_where_the_weights_come_from() -> None:
    card = read_card(str(NUCLEI.shipped))
    assert card["hash"] == file_hash(NUCLEI.shipped.read_bytes())
    assert card["licence"] == "CC0 1.0"
    assert "BBBC038" in card["data"]
    assert card["made"] > "2026"
    assert NUCLEI.shipped.stat().st_size < 5_000_000


def test_no_image_that_scores_are_reported_on_was_trained_on() -> None:
    card = read_card(str(NUCLEI.shipped))
    seen, checked = set(card["trained_on"]), set(card["validated_on"])
    assert len(seen) > 100
    assert not seen & checked
    assert {part_of(name) for name in seen | checked} == {"tune"}


# Networks that are not what they claim


def test_one_that_was_changed_is_refused_before_it_runs(copied: Path) -> None:
    content = bytearray(copied.read_bytes())
    content[len(content) // 2] ^= 1
    copied.write_bytes(content)
    with pytest.raises(ModelFileError, match="not the network that its card describes"):
        segment(np.zeros((64, 64)), SEGMENTER, model=str(copied))


def test_one_without_a_card_is_refused(copied: Path) -> None:
    Path(card_file(str(copied))).unlink()
    with pytest.raises(ModelFileError, match=r"card\.json"):
        load_network(str(copied))


@pytest.mark.parametrize("said", ["no JSON", "[]", "{}", '{"format": "another 2", "hash": "00"}'])
def test_one_whose_card_is_none_is_refused(copied: Path, said: str) -> None:
    Path(card_file(str(copied))).write_text(said)
    with pytest.raises(ModelFileError, match="card"):
        load_network(str(copied))


def test_what_is_no_network_is_refused_in_words(copied: Path) -> None:
    copied.write_bytes(b"no ONNX at all")
    card = json.loads(Path(card_file(str(copied))).read_text()) | {"hash": file_hash(b"no ONNX at all")}
    Path(card_file(str(copied))).write_text(json.dumps(card))
    with pytest.raises(ModelFileError, match="not an ONNX model"):
        load_network(str(copied))


def test_a_run_remembers_which_network_it_used(copied: Path) -> None:
    parameters: Any = parse_parameters(SEGMENTER, {"model": str(copied)})
    assert parameters.model_hash == file_hash(copied.read_bytes())
    with pytest.raises(ModelFileError, match="changed since"):
        load_network(str(copied), "0" * 40)


def test_one_of_ones_own_is_used(copied: Path) -> None:
    image: NDArray[np.uint16] = nuclei_field((128, 128), 8, seed=1).image
    np.testing.assert_array_equal(segment(image, SEGMENTER, model=str(copied)), segment(image, SEGMENTER))


def test_parameters_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidParameterError, match="threshold"):
        segment(np.zeros((9, 9)), SEGMENTER, threshold=2)
