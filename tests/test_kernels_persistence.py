import numpy as np
import pytest
from scipy import ndimage

from segkit.kernels.components import label_components
from segkit.kernels.persistence import split_by_persistence

EVERY, NO = np.ones(4, dtype=bool), np.zeros(4, dtype=bool)


def discs(distance, radius=10, shape=(50, 90)):
    y, x = np.indices(shape)
    return ((y - 25) ** 2 + (x - 30) ** 2 < radius**2) | ((y - 25) ** 2 + (x - 30 - distance) ** 2 < radius**2)


def split(mask, evidence=None, walls=NO, inside=0.5, weight=0.0, rise=1.0, smallest=1, share=0.0):
    components, _ = label_components(mask)
    likely = np.ones(mask.shape, dtype=np.float32) if evidence is None else evidence.astype(np.float32)
    return split_by_persistence(components, likely, walls, inside=inside, weight=weight, rise=rise, smallest=smallest, share=share)


@pytest.mark.parametrize(("distance", "objects"), [(0, 1), (6, 1), (16, 2), (19, 2), (24, 2)])
def test_discs_are_split_at_a_neck(distance, objects):
    mask = discs(distance)
    labels = split(mask)
    assert labels.max() == objects
    np.testing.assert_array_equal(labels > 0, mask)
    assert all(ndimage.label(labels == number)[1] == 1 for number in range(1, objects + 1))


def test_a_larger_rise_merges_more():
    assert [split(discs(16), rise=rise).max() for rise in (0.5, 2.0, 8.0)] == [2, 2, 1]


def test_a_larger_share_merges_large_objects_sooner_than_small_ones():
    assert [split(discs(16, radius=10), share=share).max() for share in (0.0, 0.2, 0.6)] == [2, 2, 1]
    wide = discs(20, radius=20, shape=(60, 90))
    assert [split(wide, rise=0.1, share=share).max() for share in (0.0, 0.2)] == [2, 1]


def test_evidence_of_a_border_splits_what_the_outline_does_not():
    mask = np.zeros((30, 60), dtype=bool)
    mask[5:25, 5:55] = True
    evidence = np.ones(mask.shape)
    evidence[:, 29:31] = -1
    assert split(mask).max() == 1
    assert split(mask, evidence).max() == 2


def test_holes_are_filled_and_small_objects_dropped():
    mask = discs(30)
    mask[23:27, 28:32] = False
    mask[2:4, 2:4] = True
    labels = split(mask, smallest=10)
    assert labels.max() == 2
    assert labels[25, 30] == labels[25, 22]


def test_an_object_goes_on_beyond_the_border_of_the_image():
    half = discs(0)[:, 30:]
    assert split(half, walls=EVERY, rise=0.1).max() == 1


def test_foreground_of_others_is_left_alone():
    components = np.where(discs(30), 1, 0).astype(np.int32)
    components[:, 45:] *= -1
    labels = split_by_persistence(components, np.ones(components.shape, np.float32), NO, inside=0.5, weight=0, rise=1, smallest=1)
    np.testing.assert_array_equal(labels > 0, components > 0)


def test_nothing_gives_nothing():
    assert split(np.zeros((5, 6), dtype=bool)).max() == 0
