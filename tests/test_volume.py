import doctest

import numpy as np
import pytest
from scipy import ndimage
from stardist.data import test_image_nuclei_3d as nuclei_stack

import segkit.segmenters.volume
from segkit.errors import InvalidParameterError, InvalidPixelsError, PixelSizeError, SelectionError
from segkit.measure import measure
from segkit.scoring import score
from segkit.segmenters import SizedParameters, get
from segkit.segmenters.volume import estimate_diameter, segment_volume


def balls(diameter, step, places, shape, levels=None):
    """A volume of balls in a physical grid whose planes lie `step` pixels apart, blurred and noisy; and its truth."""
    z, y, x = np.indices(shape)
    truth = np.zeros(shape, dtype=np.int32)
    for number, (plane, row, column) in enumerate(places, start=1):
        truth[((z - plane) * step) ** 2 + (y - row) ** 2 + (x - column) ** 2 < diameter**2 / 4] = number
    bright = np.concatenate([[0], levels if levels is not None else np.full(len(places), 300)])[truth]
    blurred = ndimage.gaussian_filter(bright.astype(float), (1 / step, 1, 1))
    return np.random.default_rng(0).poisson(blurred + 100).astype(np.uint16), truth


GRID = [(plane, row, column) for plane in (6, 14) for row in (14, 30, 46) for column in (14, 30, 46)]


def test_the_stack_that_stardist_carries():
    image, truth = nuclei_stack(return_mask=True)
    scores = score(truth.astype(np.int32), segment_volume(image, pixel_size_um=0.5, z_step_um=0.75))
    assert scores.at(0.5).f1 > 0.85
    assert scores.count_error < 0.1


@pytest.mark.parametrize("step", [1.0, 2.0, 4.0])
def test_touching_balls_are_found_at_any_distance_of_planes(step):
    shape = (int(20 * 2 / step) + 1, 60, 60)
    image, truth = balls(16, step, [(plane * 2 / step, row, column) for plane, row, column in GRID], shape)
    scores = score(truth, segment_volume(image, pixel_size_um=0.4, z_step_um=0.4 * step))
    assert scores.at(0.7).f1 == 1.0


def test_dim_balls_beside_bright_ones_keep_their_size():
    image, truth = balls(14, 2, GRID, (21, 60, 60), levels=np.where(np.arange(len(GRID)) % 2, 800, 160))
    scores = score(truth, segment_volume(image, pixel_size_um=1, z_step_um=2))
    assert scores.at(0.6).f1 > 0.94


def test_objects_are_measured_in_cubic_micrometres():
    image, truth = balls(16, 2, [(10, 30, 30)], (21, 60, 60))
    labels = segment_volume(image, pixel_size_um=0.5, z_step_um=1.0)
    volume = measure(labels, pixel_size_um=0.5, z_step_um=1.0)["volume_um3"].to_pylist()
    assert volume == pytest.approx([np.count_nonzero(truth) * 0.25], rel=0.2)


def test_the_size_is_estimated_and_can_be_given():
    image, truth = balls(16, 2, GRID, (21, 60, 60))
    assert estimate_diameter(image.astype(np.float32), 2.0) == pytest.approx(16, rel=0.2)
    given = segment_volume(image, SizedParameters(diameter_um=8), pixel_size_um=0.5, z_step_um=1.0)
    assert score(truth, given).at(0.7).f1 == 1.0


def test_labels_are_numbered_in_raster_order():
    image, _ = balls(14, 2, GRID, (21, 60, 60))
    labels = segment_volume(image, pixel_size_um=1, z_step_um=2)
    values, first = np.unique(labels, return_index=True)
    assert labels.dtype == np.int32
    assert values.tolist() == list(range(labels.max() + 1))
    assert (np.diff(first[1:]) > 0).all()


@pytest.mark.parametrize(
    "volume",
    [
        np.zeros((4, 20, 20), dtype=np.uint16),
        np.full((4, 20, 20), 65535, dtype=np.uint16),
        np.zeros((1, 1, 1)),
        np.eye(7, dtype=bool)[None],
        np.random.default_rng(1).normal(100, 10, (12, 64, 64)),
    ],
)
def test_nothing_is_found_where_nothing_is(volume):
    assert segment_volume(volume, pixel_size_um=1, z_step_um=1).max() == 0


@pytest.mark.parametrize("volume", [np.zeros((4, 4)), np.zeros((0, 4, 4)), np.full((3, 4, 4), np.nan), np.zeros((2, 3, 4), dtype=complex)])
def test_what_is_no_volume_is_refused(volume):
    with pytest.raises(InvalidPixelsError):
        segment_volume(volume)


def test_other_faults_are_named():
    volume = np.zeros((4, 20, 20))
    with pytest.raises(SelectionError, match="threshold"):
        segment_volume(volume, segmenter=get("threshold"))
    with pytest.raises(PixelSizeError):
        segment_volume(volume, pixel_size_um=1, z_step_um=-1)
    with pytest.raises(PixelSizeError, match="fit together"):
        segment_volume(volume, pixel_size_um=1e-6, z_step_um=1e6)
    with pytest.raises(InvalidParameterError):
        segment_volume(volume, SizedParameters(diameter_um=8))


def test_examples_in_docstrings():
    assert doctest.testmod(segkit.segmenters.volume).failed == 0
