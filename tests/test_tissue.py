"""The segmenter `tissue`, by either recipe: real and synthetic slides, nothing where nothing is, the same in tiles."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage import data
from tiles import assert_tile_exact

from segkit import segmenters
from segkit.errors import InvalidParameterError, InvalidPixelsError
from segkit.kernels.stains import colour_counts, stain_planes
from segkit.scoring import pool, score
from segkit.segmenters import parse_parameters, tissue_forest, tissue_net
from segkit.segmenters.stains import read_tables
from segkit.segmenters.tissue import BEFORE, SEGMENTER, TissueParameters

either = pytest.mark.parametrize("recipe", ["network", "classical"])
FOLDER = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "dsb2018"


def slide(seed=0, shape=(200, 240), count=30, radius=10, ink=((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)), pink=0.25):
    """A stained slide: nuclei of one stain in a field of the other, by the law of absorption; and its truth."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    truth, centres = np.zeros(shape, dtype=np.int32), []
    for _ in range(count * 10):
        row, column, wide = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(0.85, 1.15)
        if len(centres) < count and all(np.hypot(row - r, column - c) > 2.1 * radius for r, c in centres):
            centres.append((row, column))
            truth[(((y - row) / wide) ** 2 + ((x - column) * wide) ** 2 < radius**2) & (truth == 0)] = len(centres)
    nuclear = ndimage.gaussian_filter((truth > 0) * rng.uniform(0.8, 1.1), 1.0) + 0.03 * rng.standard_normal(shape)
    field = pink * (1 + 0.3 * ndimage.gaussian_filter(rng.standard_normal(shape), 5) * 10)
    absorbed = nuclear[..., None] * ink[0] + field[..., None] * ink[1]
    return np.clip(np.rint(245 * np.exp(-absorbed)), 0, 255).astype(np.uint8), truth


@pytest.mark.parametrize(("recipe", "least"), [("network", 0.72), ("classical", 0.7)])
def test_real_tissue_that_was_held_back(recipe, least):
    if not FOLDER.is_dir():
        pytest.skip("skipped: no DSB2018 folder")
    from benchmarks.accuracy import read_pairs

    pairs = [pair for pair in read_pairs(FOLDER) if pair.kind == "color" and pair.part == "report"][:8]
    scores = []
    for pair in pairs:
        image, truth = pair.read()
        scores.append(score(truth, segmenters.segment(image, "tissue", recipe=recipe)))
    assert pool(scores).at(0.5).f1 > least


@either
@pytest.mark.parametrize("pink", [0.0, 0.3])
def test_a_synthetic_slide(pink, recipe):
    image, truth = slide(pink=pink)
    assert score(truth, segmenters.segment(image, "tissue", recipe=recipe)).at(0.5).f1 > 0.8


@either
def test_bright_nuclei_on_a_dark_background_are_the_same_nuclei(recipe):
    image, _ = slide(pink=0.0)
    expected = segmenters.segment(image, "tissue", background="bright", recipe=recipe)
    np.testing.assert_array_equal(segmenters.segment(255 - image, "tissue", background="dark", recipe=recipe), expected)
    np.testing.assert_array_equal(segmenters.segment(255 - image, "tissue", recipe=recipe), expected)


@either
def test_brown_and_blue_of_immunohistochemistry(recipe):
    labels = segmenters.segment(data.immunohistochemistry(), "tissue", recipe=recipe)
    told = segmenters.segment(data.immunohistochemistry(), "tissue", recipe=recipe, stain="hematoxylin-dab")
    np.testing.assert_array_equal(labels, told)
    areas = np.bincount(labels.ravel())[1:]
    assert 200 < len(areas) < 900
    assert 50 < np.median(areas) < 400


@either
def test_tiles_give_the_same_labels(recipe):
    image, _ = slide(seed=3, shape=(230, 190), count=60)
    assert_tile_exact(SEGMENTER, image, TissueParameters(recipe=recipe))


def test_real_pixels_in_tiles_give_the_same_labels():
    parameters = TissueParameters(stain="hematoxylin-dab", recipe="classical")
    assert assert_tile_exact(SEGMENTER, data.immunohistochemistry()[100:300, 50:300], parameters, tiles=(64,)).max() > 20


@either
def test_larger_nuclei_are_found_when_their_size_is_told(recipe):
    image, truth = slide(radius=45, shape=(400, 400), count=12)
    assert score(truth, segmenters.segment(image, "tissue", diameter=90, recipe=recipe)).at(0.5).f1 > 0.7


@either
@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_of_one_colour_has_no_objects(value, recipe):
    assert segmenters.segment(np.full((50, 70, 3), value, dtype=np.uint8), "tissue", recipe=recipe).max() == 0


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 90, 3), (90, 1, 3)])
def test_thin_images_are_no_fault(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert segmenters.segment(image, "tissue").shape == shape[:2]


def test_faults_are_named():
    with pytest.raises(InvalidPixelsError, match="colour"):
        segmenters.segment(np.zeros((20, 20), dtype=np.uint8), "tissue")
    with pytest.raises(InvalidParameterError):
        segmenters.segment(np.zeros((20, 20, 3), dtype=np.uint8), "tissue", stain="ink")


def test_densities_of_known_stains_are_what_was_mixed():
    amounts = np.linspace(0, 1, 50)
    ink = np.array([0.65, 0.70, 0.29]) / np.linalg.norm([0.65, 0.70, 0.29])
    image = np.rint(255 * np.exp(-np.multiply.outer(amounts, ink)) - 0.5).clip(0, 255).astype(np.uint8)[None].repeat(40, axis=0)
    image = np.concatenate([np.full((40, 50, 3), 255, dtype=np.uint8), image])
    planes = stain_planes(image, read_tables(colour_counts(image)[0], "hematoxylin-eosin"))
    density = planes[0, -1] / planes[0, -1, -1]
    np.testing.assert_allclose(density, amounts, atol=0.03)
    assert not planes[1].any()


def test_a_region_is_called_empty_only_when_nothing_in_it_is_looked_at() -> None:
    image = np.full((256, 320, 3), (238, 236, 240), np.uint8)
    image[70:250, 200:310] = slide(shape=(180, 110))[0]
    recipe, parameters = SEGMENTER.recipe, TissueParameters(recipe="classical")
    assert recipe is not None
    plan, halo = recipe.plan(image, parameters), recipe.survey_halo(parameters)
    emptied = 0
    foreground = recipe.foreground(recipe.see(image, plan, 0, 0, None), plan, 0, 0)
    for top in range(0, 256, 64):
        for left in range(0, 320, 64):
            first, last = (max(top - halo, 0), max(left - halo, 0)), (min(top + 64 + halo, 256), min(left + 64 + halo, 320))
            margins = (top - first[0], left - first[1], last[0] - top - 64, last[1] - left - 64)
            survey = recipe.survey(image[first[0] : last[0], first[1] : last[1]], top, left, parameters, margins)
            if recipe.empty(survey, plan):
                emptied += 1
                assert not foreground[top : top + 64, left : left + 64].any()
    assert 8 <= emptied < 20


# Which recipe it is


def test_by_default_it_is_the_network_with_that_segmenters_defaults() -> None:
    image, _ = slide()
    assert TissueParameters().recipe == "network"
    np.testing.assert_array_equal(segmenters.segment(image, "tissue"), segmenters.segment(image, tissue_net.SEGMENTER))
    plan = SEGMENTER.recipe.plan(image, TissueParameters())  # type: ignore[union-attr]
    own = tissue_net.TissueNetParameters()
    assert (plan.ground.threshold, plan.ground.separation) == pytest.approx((own.threshold, own.separation))
    assert plan.ground.min_area == own.min_area


def test_without_onnxruntime_it_is_the_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.segmenters.choosing.find_spec", lambda name: None)
    assert TissueParameters().recipe == "classical"
    assert TissueParameters(recipe="network").recipe == "network", "what was asked for stays"


def test_a_run_says_which_recipe_it_used_and_an_older_one_means_the_forests() -> None:
    said = parse_parameters(SEGMENTER, {"threshold": 0.4}).model_dump(mode="json")
    assert said["recipe"] == "network"
    assert parse_parameters(SEGMENTER, said).model_dump(mode="json") == said
    older = {name: said[name] for name in BEFORE}
    assert parse_parameters(SEGMENTER, older).model_dump(mode="json") == said | {"recipe": "classical"}


def test_the_classical_recipe_is_the_forests() -> None:
    image, asked = slide(count=12)[0], TissueParameters(recipe="classical", separation=1.5)
    np.testing.assert_array_equal(SEGMENTER.function(image, asked, None), tissue_forest.RECIPE.apply(image, asked))


@either
def test_each_object_has_a_confidence(recipe: str) -> None:
    labels, confidence, _ = SEGMENTER.apply(slide()[0], TissueParameters(recipe=recipe), None)
    assert confidence is not None
    assert confidence.shape == (labels.max(),)
    assert ((confidence > 0) & (confidence <= 1)).all()
