"""The accuracy benchmark on a folder made here."""

import json

import cv2
import numpy as np
import pytest
from scipy import ndimage

from benchmarks import accuracy
from benchmarks.train_tissue import classes_of
from segkit.segmenters.network import NUCLEI, TISSUE, read_card
from segkit.synthetic import nuclei_field


def write_pair(folder, name, image, truth):
    cv2.imwrite(str(folder / f"{name}.png"), image)
    cv2.imwrite(str(folder / f"{name}.labels.png"), truth.astype(np.uint16))


@pytest.fixture
def folder(tmp_path):
    for seed in range(6):
        field = nuclei_field((160, 180), 20, seed=seed)
        write_pair(
            tmp_path, f"field{seed}", (field.image // 256).astype(np.uint8) if field.image.max() > 255 * 16 else field.image, field.truth
        )
    (tmp_path / "alone.png").write_bytes((tmp_path / "field0.png").read_bytes())
    return tmp_path


def test_figures_of_each_part_and_of_both(folder, capsys, monkeypatch):
    monkeypatch.setattr(accuracy, "PICTURES", folder / "artefacts")
    accuracy.main([str(folder), "--segmenter", "threshold", "--json"])
    said = capsys.readouterr().out
    found = json.loads(said.splitlines()[-1])
    assert set(found) == {"f1_50", "f1_70", "ap_50", "ap_mean", "pq", "all"}
    parts = found["all"]["parts"]
    assert parts["all"]["images"] == 6 == sum(parts[part]["images"] for part in ("tune", "report") if part in parts)
    assert found["f1_50"] == found["all"]["f1_50"] == parts["report"]["f1_50"] > 0.7
    assert "cellpose: not run." in said
    assert "scikit-image" in said
    assert cv2.imread(str(folder / "artefacts" / "accuracy-worst-threshold-all.png")).shape[1] > 800


@pytest.mark.parametrize("name", ["nuclei", "nuclei-net", "tissue", "tissue-net"])
def test_it_says_which_images_the_weights_have_seen(folder, name):
    kind = TISSUE if name.startswith("tissue") else NUCLEI
    card = read_card(str(kind.shipped), kind)
    for known in (card["trained_on"][0], card["validated_on"][0]):
        for ending in (".png", ".labels.png"):
            (folder / f"{known}{ending}").write_bytes((folder / f"field0{ending}").read_bytes())
    said = accuracy.seen_by(name, accuracy.read_pairs(folder))
    assert f"trained on: 1 of these images: {card['trained_on'][0][:8]}" in said
    assert f"validated on: 1 of these images: {card['validated_on'][0][:8]}" in said
    assert said.endswith("never seen by the weights: 6 of these images")


def test_kinds_come_from_the_index(folder, capsys, monkeypatch):
    monkeypatch.setattr(accuracy, "PICTURES", folder / "artefacts")
    (folder / "index.csv").write_text("file,kind\n" + "".join(f"field{seed}.png,{'ab'[seed % 2]}\n" for seed in range(6)))
    accuracy.main([str(folder), "--segmenter", "threshold", "--part", "tune", "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {pair.kind for pair in accuracy.read_pairs(folder)} == {"a", "b"}
    assert all(set(found[kind]["parts"]) <= {"tune"} for kind in ("a", "b") if kind in found)


def test_a_part_without_images_is_no_fault(folder, capsys, monkeypatch):
    monkeypatch.setattr(accuracy, "PICTURES", folder / "artefacts")
    for pair in accuracy.read_pairs(folder):
        if pair.part == "tune":
            pair.image.unlink()
    accuracy.main([str(folder), "--segmenter", "threshold", "--json"])
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["all"]["parts"]) == {"report", "all"}


def test_without_a_folder_it_is_skipped_in_one_line(tmp_path, capsys):
    accuracy.main([str(tmp_path / "none")])
    assert capsys.readouterr().out == "skipped: no DSB2018 folder\n"
    accuracy.main([str(tmp_path)])
    assert capsys.readouterr().out.startswith("skipped: no pairs NAME.png")


def test_the_division_does_not_depend_on_what_else_is_there(folder):
    before = {pair.name: pair.part for pair in accuracy.read_pairs(folder)}
    for path in folder.glob("field[1-4]*"):
        path.unlink()
    assert {pair.name: pair.part for pair in accuracy.read_pairs(folder)}.items() <= before.items()


def test_borders_are_one_pixel_wide_also_where_objects_touch():
    truth = np.zeros((12, 12), dtype=np.int32)
    truth[2:10, 2:6], truth[2:10, 6:10] = 1, 2
    meant = classes_of(truth)
    assert (meant == 1).sum() == 2 * 6 * 2
    assert ndimage.label(meant == 1)[1] == 2
    assert (meant[truth == 0] == 0).all()
