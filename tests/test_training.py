"""Training: what the network should say, parts that are apart, and a small network that learns, is saved, and is used."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from plates import open_kit, write_plate
from test_tissue import slide

from segkit import segment
from segkit.corrections import Correction
from segkit.errors import ModelFileError, TrainingError
from segkit.scoring import pool, score
from segkit.segmenters import names, tissue_net
from segkit.segmenters.network import NUCLEI, TISSUE, load_network, read_card
from segkit.segmenters.nuclei_net import SEGMENTER
from segkit.settings import Settings
from segkit.synthetic import nuclei_field
from segkit.training.pairs import LabelledImage, divided, part_of, read_folder, read_results
from segkit.training.purposes import FOR_TISSUE, purpose_of
from segkit.training.samples import crop, example_of, targets_of

needs_torch = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "onnx")),
    reason='skipped: PyTorch and onnx are not installed; pip install "segkit[train]"',
)


def image_of(seed: int, edge: int = 96) -> LabelledImage:
    field = nuclei_field((edge, edge), 8, diameter=16, seed=seed)
    return LabelledImage(f"image-{seed}", field.image, field.truth)


def test_targets_are_foreground_depth_and_contact() -> None:
    labels = np.zeros((20, 30), np.int32)
    labels[4:13, 4:13] = 1
    labels[4:13, 13:22] = 2
    labels[17:20, 0:5] = 3
    foreground, depth, contact = np.moveaxis(targets_of(labels), -1, 0)
    np.testing.assert_array_equal(foreground > 0, labels > 0)
    assert depth[8, 8] == depth[8, 17] == 1
    assert 0 < depth[4, 8] < 0.3
    assert contact[8, 12]
    assert contact[8, 13]
    assert not contact[8, 6]
    assert depth[19, 0] == 1, "the image's sides are no edges of an object"


def test_crops_are_the_same_for_the_same_draw_and_fit_their_targets() -> None:
    example = example_of(image_of(1))
    assert example is not None
    first, second = (crop(example, 64, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    assert first[0].shape == (1, 64, 64)
    assert first[1].shape == (64, 64, 3)
    assert first[1].min() >= 0
    assert first[1].max() <= 1
    inside, outside = (first[0][0][mask].mean() for mask in (first[1][..., 0] > 0.9, first[1][..., 0] < 0.1))
    assert inside > outside + 0.3


def test_an_image_in_which_nothing_stands_out_is_left_out() -> None:
    assert example_of(LabelledImage("flat", np.full((64, 64), 7, np.uint8), np.zeros((64, 64), np.int32))) is None


def test_parts_are_apart_even_where_an_image_is_there_twice() -> None:
    images = [image_of(seed) for seed in range(9)]
    twins = [replace(image, name=f"copy of {image.name}") for image in images]
    training, validation = divided([*images, *twins], 0.3)
    assert len(validation) == 6
    assert not {image.pixels.tobytes() for image in training} & {image.pixels.tobytes() for image in validation}
    again = divided([*twins[::-1], *images], 0.3)[1]
    assert {image.name for image in again} == {image.name for image in validation}, "whatever the order"


def test_one_image_is_not_enough() -> None:
    with pytest.raises(TrainingError, match="two different images"):
        divided([image_of(1), replace(image_of(1), name="same")])


def test_a_folder_is_read_by_kind_and_part(tmp_path: Path) -> None:
    rows = ["file,kind"]
    for seed in range(6):
        image = image_of(seed, 48)
        cv2.imwrite(str(tmp_path / f"{image.name}.png"), image.pixels)
        cv2.imwrite(str(tmp_path / f"{image.name}.labels.png"), image.labels.astype(np.uint16))
        rows.append(f"{image.name}.png,{'odd' if seed % 2 else 'even'}")
    (tmp_path / "index.csv").write_text("\n".join(rows))
    assert len(read_folder(tmp_path)) == 6
    assert {image.name for image in read_folder(tmp_path, kind="odd")} == {"image-1", "image-3", "image-5"}
    tuned = read_folder(tmp_path, part="tune")
    assert {part_of(image.name) for image in tuned} == {"tune"}
    np.testing.assert_array_equal(tuned[0].labels, image_of(int(tuned[0].name[-1]), 48).labels)


def test_a_folder_without_pairs_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"NAME\.labels\.png"):
        read_folder(tmp_path)


@pytest.mark.skipif(SEGMENTER.name not in names(), reason="skipped: nuclei-net is not among the installed entry points")
def test_what_people_corrected_is_learned_from_and_keeps_its_columns(tmp_path: Path) -> None:
    images = write_plate(tmp_path / "images", [3, 5])
    with open_kit(Settings(home=str(tmp_path / "home"))) as kit:
        project = kit.project("plate", create=True)
        project.add(str(images / "*.tif"))
        run = project.segment(SEGMENTER.name).wait()
        assert "confidence" in run.objects().column_names
        with pytest.raises(TrainingError, match="no corrected results"):
            read_results(run)
        assert len(read_results(run, corrected=False)) == 2
        correction = Correction(kit.database, kit.settings, run.number, next(iter(run.results())).image.id)
        correction.edits.erase([(9.0, 9.0)], 2.0, correction.edits.at((9, 9)))
        correction.save("Anna")
        (learned,) = read_results(run)
        assert learned.labels[9, 9] == 0
        assert learned.labels.max() >= 3
        assert 1.0 in run.objects()["confidence"].to_pylist(), "a person is sure"


@needs_torch
def test_an_image_in_both_parts_is_refused() -> None:
    from segkit.training import fitting

    with pytest.raises(TrainingError, match="both parts"):
        fitting.apart([image_of(1)], [replace(image_of(1), name="another")])


@needs_torch
def test_a_small_network_learns_goes_on_where_it_was_cut_off_and_is_used(tmp_path: Path) -> None:
    from segkit import training

    images = [image_of(seed) for seed in range(6)]
    asked = training.FitSettings(
        steps=40, crops=2, edge=64, rate=5e-3, warmup=5, look_every=20, averaging=0.9, threads=1, widths=(8, 12, 16, 16)
    )
    learned, checked = divided(images)
    training.fit(learned, checked, replace(asked, steps=20, cooling=0), checkpoint=tmp_path / "half.pt")
    halfway = training.fit(learned, checked, replace(asked, cooling=0), checkpoint=tmp_path / "half.pt")
    whole = training.fit(learned, checked, replace(asked, cooling=0))
    np.testing.assert_allclose(halfway.losses, whole.losses, rtol=1e-3)
    trained = training.train_network(images, tmp_path / "ours.onnx", data="made in code", licence="none", settings=asked)
    assert np.mean(trained.state.losses[-10:]) < 0.8 * np.mean(trained.state.losses[:5])
    assert read_card(str(trained.path))["data"] == "made in code"
    assert list(trained.table.index) == ["validation"]
    assert trained.curves().axes
    assert trained.worst(2).axes
    ours = pool(score(image.labels, segment(image.pixels, SEGMENTER, model=str(trained.path))) for image in checked)
    assert ours == pool(each.scores for each in trained.judged["validation"])


@needs_torch
def test_the_same_seed_gives_the_same_scores(tmp_path: Path) -> None:
    from segkit import training

    images = [image_of(seed) for seed in range(6)]
    asked = training.FitSettings(
        steps=30, crops=2, edge=64, rate=5e-3, warmup=5, look_every=30, averaging=0.9, threads=1, widths=(8, 12, 16, 16)
    )
    tables = [
        training.train_network(images, tmp_path / f"{name}.onnx", data="made in code", licence="none", settings=asked).table
        for name in ("first", "again")
    ]
    np.testing.assert_allclose(tables[1].to_numpy(), tables[0].to_numpy(), atol=0.01)


# Stained tissue


def slide_of(seed: int) -> LabelledImage:
    image, truth = slide(seed=seed, shape=(96, 112), count=14, radius=8)
    return LabelledImage(f"slide-{seed}", image, truth)


def test_crops_of_a_slide_are_its_brightness_and_two_stains() -> None:
    example = example_of(slide_of(1), FOR_TISSUE)
    assert example is not None
    assert example.planes.shape == (3, 96, 112)
    shown, meant = crop(example, 64, np.random.default_rng(3), FOR_TISSUE)
    np.testing.assert_array_equal(shown, crop(example, 64, np.random.default_rng(3), FOR_TISSUE)[0])
    assert shown.shape == (3, 64, 64)
    for plane in shown[:2]:
        assert plane[meant[..., 0] > 0.9].mean() > plane[meant[..., 0] < 0.1].mean() + 0.3


def test_a_gray_image_of_dark_nuclei_is_a_slide_of_one_stain() -> None:
    image = slide_of(2)
    example = example_of(replace(image, pixels=image.pixels.mean(axis=-1).astype(np.uint8)), FOR_TISSUE)
    assert example is not None
    assert np.abs(example.planes[2]).max() < 0.1 < example.planes[1].max()


def test_a_segmenter_without_a_network_is_refused() -> None:
    with pytest.raises(TrainingError, match="nuclei-net or tissue-net"):
        purpose_of("threshold")


@needs_torch
def test_a_shipped_network_that_is_read_says_what_it_said() -> None:
    import torch

    from segkit import training
    from segkit.training.fitting import Shown

    asked = training.FitSettings(edge=64, crops=2)
    net = training.read_network("nuclei-net", [image_of(1), image_of(2)], asked)
    plane = np.random.default_rng(0).standard_normal((1, 96, 64)).astype(np.float32)
    with torch.no_grad():
        said = Shown(net.eval())(torch.from_numpy(plane)[None])[0].numpy()
        wider = training.read_network("nuclei-net", [slide_of(1)], replace(asked, segmenter="tissue-net"))
        also = Shown(wider.eval())(torch.from_numpy(np.concatenate([plane, 9 * plane, plane]))[None])[0].numpy()
    np.testing.assert_allclose(said, load_network().run(plane), atol=1e-4)
    np.testing.assert_allclose(also, said, atol=1e-4, err_msg="what it was not shown before weighs nothing at first")


@needs_torch
def test_a_network_of_another_design_is_not_trained_further(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from segkit import training
    from segkit.training import starting

    monkeypatch.setattr(starting, "_weights", lambda content: [(torch.zeros(8, 1, 5, 5), torch.zeros(8))])
    with pytest.raises(ModelFileError, match="design"):
        training.read_network("nuclei-net", [image_of(1)], training.FitSettings())


@needs_torch
def test_a_network_that_is_narrowed_keeps_what_matters_most() -> None:
    import torch

    from segkit.training.design import NucleiNet
    from segkit.training.narrowing import links_of, narrowed

    torch.manual_seed(0)
    wide = NucleiNet((8, 8, 12, 12)).eval()
    with torch.no_grad():
        for link in links_of(wide):  # of every eight or twelve channels some never say anything
            silent = {"level 0": 4, "ascent 0": 4, "level 1": 6, "ascent 1": 6, "descent 1": 6}.get(link.gives)
            if silent is not None:
                link.convolution.weight[silent:] = 0
                if link.norm is None:
                    link.convolution.bias[silent:] = 0
                else:
                    link.norm.weight[silent:] = 0
        narrow = narrowed(wide, (4, 6, 12, 12)).eval()
        shown = torch.randn(1, 1, 64, 96)
        torch.testing.assert_close(narrow(shown), wide(shown))
    assert narrow.widths == (4, 6, 12, 12)
    with pytest.raises(TrainingError, match="narrowed"):
        narrowed(narrow, (8, 6, 12, 12))


@needs_torch
def test_a_narrower_network_learns_of_the_wide_one(tmp_path: Path) -> None:
    from segkit import training

    images = [image_of(seed) for seed in range(5)]
    asked = training.FitSettings(
        steps=30, crops=2, edge=64, rate=3e-3, warmup=5, look_every=15, averaging=0.9, threads=1, widths=(16, 24, 48, 64)
    )  # fmt: skip
    trained = training.train_network(
        images, tmp_path / "ours.onnx", data="made in code", licence="none", settings=asked, start="nuclei-net"
    )
    assert trained.path.stat().st_size < 0.9 * Path(NUCLEI.shipped).stat().st_size
    assert read_card(str(trained.path))["settings"]["widths"] == [16, 24, 48, 64]
    assert trained.state.teacher is not None
    assert np.mean(trained.state.losses[-5:]) < np.mean(trained.state.losses[:5])
    again = training.read_network(str(trained.path), images, training.FitSettings(edge=64, crops=2))
    assert again.widths == (16, 24, 48, 64), "it is read with the widths that it was saved with"


@needs_torch
def test_a_small_network_for_tissue_learns_and_is_used(tmp_path: Path) -> None:
    from segkit import training

    images = [slide_of(seed) for seed in range(5)]
    asked = training.FitSettings(
        segmenter="tissue-net", steps=30, crops=2, edge=64, rate=5e-3, warmup=5, look_every=15, averaging=0.9, threads=1,
        widths=(8, 12, 16, 16), by_size=0.5,
    )  # fmt: skip
    trained = training.train_network(images, tmp_path / "ours.onnx", data="made in code", licence="none", settings=asked)
    assert np.mean(trained.state.losses[-10:]) < 0.8 * np.mean(trained.state.losses[:5])
    assert read_card(str(trained.path), TISSUE)["settings"]["segmenter"] == "tissue-net"
    ours = [score(image.labels, segment(image.pixels, tissue_net.SEGMENTER, model=str(trained.path))) for image in divided(images)[1]]
    assert pool(ours) == pool(each.scores for each in trained.judged["validation"])
    with pytest.raises(ModelFileError, match="a network for nuclei-net"):
        segment(image_of(1).pixels, SEGMENTER, model=str(trained.path))
