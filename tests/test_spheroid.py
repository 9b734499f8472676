import numpy as np
import pytest
from scipy import ndimage
from skimage import data
from tiles import assert_tile_exact

from segkit import segmenters
from segkit.errors import InvalidParameterError
from segkit.scoring import score
from segkit.segmenters.spheroid import SEGMENTER, SpheroidParameters


def plate(seed, look="dark", shape=(300, 380), count=4, radii=(28, 45), noise=4.0, debris=10):
    """Knobbly spheroids in uneven light with specks of debris: darker, brighter, or only of another texture; and their truth."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    truth, placed = np.zeros(shape, dtype=np.int32), []
    for _ in range(500):
        radius, (row, column) = rng.uniform(*radii), rng.uniform(0.1, 0.9, 2) * shape
        if len(placed) == count:
            break
        if all(np.hypot(row - r, column - c) > radius + other + 12 for r, c, other in placed):
            placed.append((row, column, radius))
            angle = np.arctan2(y - row, x - column)
            edge = radius * (1 + 0.06 * np.cos(3 * angle + rng.uniform(0, 6)) + 0.04 * np.cos(5 * angle + rng.uniform(0, 6)))
            truth[np.hypot(y - row, x - column) < edge] = len(placed)
    depth, distance = ndimage.distance_transform_edt(truth > 0), ndimage.distance_transform_edt(truth == 0)
    grain = 7 * ndimage.gaussian_filter(rng.standard_normal(shape), 2)
    signal = {
        "dark": -60 * np.minimum(depth / 15, 1) * (1 + 0.2 * grain),
        "bright": 60 * np.minimum(depth / 15, 1),
        "phase": np.where(truth > 0, 35 * grain - 25 * np.exp(-(((depth - 3) / 4) ** 2)), 40 * np.exp(-((distance / 4) ** 2))),
    }[look]
    image = 150 * (1 + 0.25 * ((x / shape[1] - 0.5) + 0.6 * (y / shape[0] - 0.4) ** 2)) + signal
    for _ in range(debris):
        row, column = rng.uniform(0, 1, 2) * shape
        image -= rng.uniform(20, 60) * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * rng.uniform(1, 2.5) ** 2))
    image = ndimage.gaussian_filter(image, 1) + noise * rng.standard_normal(shape)
    return np.clip(image, 0, 255).astype(np.uint8), truth


@pytest.mark.parametrize("look", ["dark", "bright", "phase"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_spheroids_are_found_whatever_they_look_like(look, seed):
    image, truth = plate(seed, look)
    scores = score(truth, segmenters.segment(image, "spheroid"))
    assert scores.at(0.7).f1 == 1.0
    assert scores.pq > (0.7 if look == "phase" else 0.9)


@pytest.mark.parametrize("options", [{"count": 10, "radii": (12, 20)}, {"count": 1, "radii": (110, 111)}, {"noise": 12.0}])
def test_small_large_and_noisy_ones(options):
    image, truth = plate(5, **options)
    assert score(truth, segmenters.segment(image, "spheroid")).at(0.6).f1 > 0.9


def test_sixteen_bits_and_floats_give_the_same_objects():
    image, _ = plate(1)
    expected = segmenters.segment(image, "spheroid")
    np.testing.assert_array_equal(segmenters.segment(image.astype(np.uint16) * 200, "spheroid"), expected)
    assert score(expected, segmenters.segment(image / 255.0 - 7, "spheroid")).at(0.95).f1 == 1.0


def test_touching_spheroids_are_split_at_their_neck():
    y, x = np.indices((200, 260))
    mask = np.minimum(np.hypot(y - 100, x - 85), np.hypot(y - 100, x - 175)) < 48
    image = ndimage.gaussian_filter(np.where(mask, 90.0, 160.0), 2) + np.random.default_rng(0).normal(0, 2, mask.shape)
    assert segmenters.segment(image, "spheroid", diameter=95).max() == 2
    assert segmenters.segment(image, "spheroid", diameter=95, split=False).max() == 1


def test_debris_is_left_out_and_a_size_can_be_given():
    image, truth = plate(2, debris=60)
    labels = segmenters.segment(image, "spheroid", diameter_um=40, pixel_size_um=0.5)
    assert labels.max() == truth.max()


def test_a_spheroid_cut_by_the_border_is_kept():
    image, truth = plate(1, count=1, shape=(220, 220), radii=(50, 51))
    middle = int(np.nonzero(truth)[0].mean())
    half = np.s_[:middle] if middle > 110 else np.s_[middle:]
    assert score(truth[half], segmenters.segment(image[half], "spheroid")).at(0.7).f1 == 1.0


def test_a_real_cell():
    labels = segmenters.segment(data.cell(), "spheroid")
    areas = np.bincount(labels.ravel())[1:]
    assert len(areas) == 1
    assert 10_000 < areas.max() < 50_000


def test_coins_in_uneven_light():
    assert segmenters.segment(data.coins(), "spheroid").max() == 24


@pytest.mark.parametrize("look", ["dark", "phase"])
def test_tiles_give_the_same_labels(look):
    image, _ = plate(4, look, shape=(230, 290), radii=(20, 34))
    assert assert_tile_exact(SEGMENTER, image, SpheroidParameters(), tiles=(64, 96, 160)).max() > 1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((120, 150)),
        np.full((120, 150), 65535, dtype=np.uint16),
        np.ones((40, 50), dtype=bool),
        np.random.default_rng(0).normal(1000, 20, (200, 250)),
        np.add.outer(np.arange(200.0), np.arange(250.0)) + np.random.default_rng(0).normal(0, 3, (200, 250)),
        np.zeros((1, 80)),
        np.arange(90.0).reshape(90, 1),
    ],
)
def test_nothing_is_found_where_nothing_is(image):
    labels = segmenters.segment(image, "spheroid")
    assert labels.shape == image.shape
    assert labels.max() == 0


def test_faults_are_named():
    with pytest.raises(InvalidParameterError, match="sensitivity"):
        segmenters.segment(np.zeros((9, 9)), "spheroid", sensitivity=0)
