"""The segmenter `nuclei`, by either recipe: real and synthetic images, dim beside bright, nothing where nothing is, the same in tiles."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.accuracy import read_pairs
from segkit import segment
from segkit.scoring import pool, score
from segkit.segmenters import nuclei_forest, nuclei_net, parse_parameters
from segkit.segmenters.nuclei import BEFORE, SEGMENTER, NucleiParameters
from segkit.synthetic import nuclei_field

either = pytest.mark.parametrize("recipe", ["network", "classical"])

#: How bright every second nucleus is beside the others.
DIM = 0.2


@either
@pytest.mark.parametrize("diameter", [12, 22, 45])
def test_synthetic_nuclei_of_many_sizes_are_found(diameter: float, recipe: str) -> None:
    field = nuclei_field((384, 384), 60, diameter=diameter, seed=int(diameter))
    assert score(field.truth, segment(field.image, recipe=recipe)).at(0.5).f1 > 0.9


@either
def test_dim_nuclei_beside_bright_ones_are_found_where_a_threshold_loses_them(recipe: str) -> None:
    field = nuclei_field((384, 384), 50, touching=0, seed=4)
    dim = np.isin(field.truth, np.arange(1, field.truth.max() + 1, 2))
    image = np.where(dim, 400 + DIM * (field.image - 400.0), field.image).clip(0).astype(np.uint16)
    ours, plain = (score(field.truth, labels).at(0.5).f1 for labels in (segment(image, recipe=recipe), segment(image, "threshold")))
    assert ours > 0.7
    assert ours > plain + 0.05


@either
@pytest.mark.parametrize("value", [0, 1, 700, 65535])
def test_a_flat_image_has_no_nuclei(value: int, recipe: str) -> None:
    assert segment(np.full((96, 128), value, np.uint16), recipe=recipe).max() == 0


@either
@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_has_no_nuclei(seed: int, recipe: str) -> None:
    noise = np.random.default_rng(seed).poisson(100, (256, 256)).astype(np.uint16)
    assert segment(noise, recipe=recipe).max() == 0


@either
@pytest.mark.parametrize("scale", [1 / 256, 1.0, 7.0])
def test_exposure_does_not_matter(scale: float, recipe: str) -> None:
    field = nuclei_field((256, 256), 30, seed=2)
    labels = segment((field.image * np.float32(scale)).astype(np.float32), recipe=recipe)
    assert score(segment(field.image.astype(np.float32), recipe=recipe), labels).at(0.5).f1 > 0.98


def test_threads_agree() -> None:
    image = nuclei_field((256, 256), 30, seed=3).image
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(segment, [image] * 8))
    assert all(np.array_equal(each, results[0]) for each in results)


@either
def test_a_region_is_called_empty_only_when_nothing_in_it_is_looked_at(recipe: str) -> None:
    field = nuclei_field((256, 256), 12, touching=0, seed=6)
    steps, parameters = SEGMENTER.recipe, NucleiParameters(recipe=recipe)
    assert steps is not None
    plan = steps.plan(field.image, parameters)
    emptied = 0
    for row in range(0, 256, 64):
        for column in range(0, 256, 64):
            tile: NDArray[np.uint16] = field.image[row : row + 64, column : column + 64]
            survey = steps.survey(tile, row, column, parameters, (0, 0, 0, 0))
            if steps.empty(survey, plan):
                emptied += 1
                assert not steps.foreground(steps.see(tile, plan, row, column, None), plan, row, column).any()
    assert 0 < emptied < 16


@pytest.mark.parametrize(("recipe", "count", "least"), [("network", 15, (0.88, 0.79)), ("classical", 40, (0.85, 0.74))])
def test_real_nuclei_that_were_held_back(dsb2018: Path, recipe: str, count: int, least: tuple[float, float]) -> None:
    """A part of the images that no parameter was chosen on; `python -m benchmarks.accuracy` judges all of them."""
    pairs = [pair for pair in read_pairs(dsb2018) if pair.kind == "fluo" and pair.part == "report"]
    pairs = sorted(pairs, key=lambda pair: pair.digest)[:count]
    scores = []
    for pair in pairs:
        image, truth = pair.read()
        scores.append(score(truth, segment(image if image.ndim == 2 else image.max(axis=2), recipe=recipe)))
    pooled = pool(scores).at(0.5)
    assert pooled.f1 >= least[0]
    assert pooled.ap >= least[1]


@pytest.mark.parametrize("diameter", [6, 10, 22, 45, 80])
def test_sizes_are_estimated_from_the_image(diameter: int) -> None:
    count = max(int(0.25 * (640 / diameter) ** 2), 12)
    field = nuclei_field((640, 640), min(count, 600), diameter=diameter, touching=0.2, seed=diameter)
    recipe = SEGMENTER.recipe
    assert recipe is not None
    told = recipe.told(recipe.plan(field.image, NucleiParameters()))
    assert 0.7 < told["typical_diameter_px"] / diameter < 1.4
    assert recipe.told(recipe.plan(field.image, NucleiParameters(diameter=33))) == {"typical_diameter_px": 33}


@either
@pytest.mark.parametrize("factor", [0.5, 3])
def test_an_image_at_another_size_has_the_same_nuclei(factor: float, recipe: str) -> None:
    field = nuclei_field((384, 384), 60, seed=9)
    size = (int(384 * factor),) * 2
    image = cv2.resize(field.image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    truth = cv2.resize(field.truth.astype(np.float32), size, interpolation=cv2.INTER_NEAREST).astype(np.int32)
    here, there = score(field.truth, segment(field.image, recipe=recipe)), score(truth, segment(image, recipe=recipe))
    assert there.at(0.5).f1 > here.at(0.5).f1 - 0.03
    assert there.at(0.7).f1 > 0.8


@either
@pytest.mark.parametrize("slope", [0, 1500])
def test_dim_nuclei_on_a_slope(slope: int, recipe: str) -> None:
    field = nuclei_field((384, 384), 50, touching=0, seed=4)
    dim = np.isin(field.truth, np.arange(1, field.truth.max() + 1, 2))
    image = np.where(dim, 400 + DIM * (field.image - 400.0), field.image) + slope * np.linspace(0, 1, 384)
    assert score(field.truth, segment(image.clip(0).astype(np.uint16), recipe=recipe)).at(0.5).f1 > 0.85


@pytest.mark.parametrize("diameter", [6, 50, 100])
def test_any_size_of_nuclei_is_exact_in_tiles(diameter: int) -> None:
    """The sizes of pixels that the forest is shown follow the image; `test_tiling.py` has nuclei of the usual size."""
    pixels = nuclei_field((400, 460), min(30000 // diameter**2 + 12, 400), diameter=diameter, seed=2).image
    recipe, parameters = SEGMENTER.recipe, NucleiParameters(diameter=diameter, recipe="classical")
    assert recipe is not None
    plan = recipe.plan(pixels, parameters)
    assert (plan.step, plan.finer) == {6: (1, 2), 50: (2, 1), 100: (4, 1)}[diameter]
    whole = recipe.foreground(recipe.see(pixels, plan, 0, 0, None), plan, 0, 0)
    halo, top, left = recipe.halo(plan), 131, 57
    first = max(top - halo, 0), max(left - halo, 0)
    part = pixels[first[0] : 203 + halo, first[1] : 150 + halo]
    inside = recipe.foreground(recipe.see(part, plan, *first, None), plan, *first)
    np.testing.assert_array_equal(inside[top - first[0] :, left - first[1] :][:72, :93], whole[top:203, left:150])
    assert whole[top:203, left:150].any()


# Which recipe it is


def test_by_default_it_is_the_network_with_that_segmenters_defaults() -> None:
    image = nuclei_field((128, 160), 14, seed=8).image
    assert NucleiParameters().recipe == "network"
    np.testing.assert_array_equal(segment(image), segment(image, "nuclei-net", objects="bright"))
    plan = SEGMENTER.recipe.plan(image, NucleiParameters())  # type: ignore[union-attr]
    own = nuclei_net.NucleiNetParameters()
    assert (plan.ground.threshold, plan.ground.separation) == pytest.approx((own.threshold, own.separation))


def test_without_onnxruntime_it_is_the_forest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.segmenters.choosing.find_spec", lambda name: None)
    assert NucleiParameters().recipe == "classical"
    assert NucleiParameters(recipe="network").recipe == "network", "what was asked for stays"


def test_a_run_says_which_recipe_it_used_and_an_older_one_means_the_forest() -> None:
    said = parse_parameters(SEGMENTER, {"threshold": 0.4}).model_dump(mode="json")
    assert said["recipe"] == "network"
    assert parse_parameters(SEGMENTER, said).model_dump(mode="json") == said
    older = {name: said[name] for name in BEFORE}
    assert parse_parameters(SEGMENTER, older).model_dump(mode="json") == said | {"recipe": "classical"}


def test_the_classical_recipe_is_the_forests() -> None:
    image, asked = nuclei_field((128, 160), 14, seed=8).image, NucleiParameters(recipe="classical", separation=1.5)
    np.testing.assert_array_equal(SEGMENTER.function(image, asked, None), nuclei_forest.RECIPE.apply(image, asked))


@either
def test_each_object_has_a_confidence(recipe: str) -> None:
    image = nuclei_field((128, 160), 14, seed=8).image
    labels, confidence, _ = SEGMENTER.apply(image, NucleiParameters(recipe=recipe), None)
    assert confidence is not None
    assert confidence.shape == (labels.max(),)
    assert (confidence > 0.5).all()
    assert (confidence <= 1).all()
