import doctest
import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from tiles import assert_tile_exact

import segkit.segmenters.training
from segkit import segmenters
from segkit.errors import InvalidParameterError, ModelFileError, TrainingError
from segkit.scoring import score
from segkit.segmenters.classifier import SEGMENTER, ClassifierParameters, Stroke, load_model
from segkit.segmenters.forest import Forest, load_forest, plant
from segkit.segmenters.training import _tree, train


def well(seed, gain=1.0, count=22, shape=(150, 170)):
    """Textured discs in a field of the same mean brightness, which no threshold finds; and their truth."""
    rng = np.random.default_rng(seed)
    truth, centres = np.zeros(shape, dtype=np.int32), []
    y, x = np.indices(shape)
    for _ in range(count * 20):
        row, column = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        if len(centres) < count and all(np.hypot(row - r, column - c) > 21 for r, c in centres):
            centres.append((row, column))
            truth[(y - row) ** 2 + (x - column) ** 2 < 100] = len(centres)
    grain = rng.standard_normal(shape)
    inside, outside = 30 * grain, 120 * ndimage.gaussian_filter(grain, 4)
    image = 500 + np.where(truth > 0, inside, outside) + 3 * rng.standard_normal(shape)
    return (gain * ndimage.gaussian_filter(image, 0.6)).astype(np.uint16), truth


def paint(truth, seed=0, border=True):
    """A few strokes, as a person would make: some objects dabbed, some background crossed, some edges followed."""
    strokes = np.zeros(truth.shape, dtype=np.uint8)
    strokes[::25][truth[::25] == 0] = Stroke.BACKGROUND
    for number in range(1, 8):
        strokes[ndimage.binary_erosion(truth == number, iterations=4)] = Stroke.OBJECT
        if border:
            ring = (truth == number) & ~ndimage.binary_erosion(truth == number, iterations=2)
            strokes[ring] = Stroke.BORDER
    return strokes


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    image, truth = well(0)
    return train(image, paint(truth), trees=20).save(str(tmp_path_factory.mktemp("models") / "texture.npz"))


def test_strokes_on_one_well_segment_another(model_path):
    image, truth = well(1)
    labels = segmenters.segment(image, "classifier", model=model_path)
    assert score(truth, labels).at(0.5).f1 > 0.8
    assert score(truth, segmenters.segment(image, "threshold")).at(0.5).f1 < 0.3


def test_two_classes_and_two_images_are_enough(tmp_path):
    wells = [well(2), well(3)]
    model = train([image for image, _ in wells], [paint(truth, border=False) for _, truth in wells], trees=20)
    image, truth = well(4)
    labels = segmenters.segment(image, "classifier", model=model.save(str(tmp_path / "two.npz")))
    assert score(truth, labels).at(0.5).f1 > 0.8


def test_tiles_give_the_same_labels(model_path):
    image, _ = well(5, shape=(150, 130))
    assert assert_tile_exact(SEGMENTER, image, ClassifierParameters(model=model_path)).max() > 5


def test_a_model_that_evens_exposure_does_not_mind_another_lamp(tmp_path):
    image, truth = well(0)
    path = train(image, paint(truth), even_exposure=True, trees=20).save(str(tmp_path / "even.npz"))
    bright, truth = well(1, gain=3.5)
    assert score(truth, segmenters.segment(bright, "classifier", model=path)).at(0.5).f1 > 0.8
    assert_tile_exact(SEGMENTER, bright, ClassifierParameters(model=path), tiles=(64,))
    assert segmenters.segment(np.full((40, 40), 7.0), "classifier", model=path).max() == 0


def test_the_compiled_forest_votes_as_scikit_learn_does():
    rng = np.random.default_rng(0)
    shown = rng.standard_normal((2000, 6)).astype(np.float32)
    meant = (shown[:, 0] + shown[:, 3] ** 2 > 1).astype(int) + (shown[:, 1] > 1)
    theirs = RandomForestClassifier(15, max_depth=8, random_state=0).fit(shown, meant)
    grown = plant([_tree(tree.tree_, theirs.classes_) for tree in theirs.estimators_])
    asked = {"sigmas": (1.0,), "structure": True, "planes": 1, "link": "mean"}
    forest = Forest(**grown, base=np.zeros(3, dtype=np.float32), **asked, notes={})
    forest.__dict__["features"] = lambda planes, mask: shown
    votes = forest._decide(np.zeros((1, 1, 1), dtype=np.float32), np.ones((1, 1), dtype=bool))
    np.testing.assert_allclose(votes, theirs.predict_proba(shown), atol=1e-5)


def test_the_same_strokes_give_the_same_version(tmp_path):
    image, truth = well(0)
    strokes = paint(truth)
    one, same, other = train(image, strokes, trees=4), train(image, strokes, trees=4), train(image, strokes, trees=4, seed=1)
    assert one.content_hash == same.content_hash != other.content_hash
    assert load_model(one.save(str(tmp_path / "one.npz"))).content_hash == one.content_hash


def test_a_run_remembers_which_model_it_used(tmp_path):
    image, truth = well(0)
    path = train(image, paint(truth), trees=4).save(str(tmp_path / "model.npz"))
    parameters = segmenters.parse_parameters(SEGMENTER, {"model": path})
    assert parameters.model_hash == load_model(path).content_hash
    train(image, paint(truth), trees=4, seed=9).save(path)
    with pytest.raises(ModelFileError, match="changed since"):
        load_model(path, "0" * 40)


def test_a_model_is_used_without_scikit_learn(model_path):
    script = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import numpy as np; from segkit import segmenters\n"
        f"print(segmenters.segment(np.zeros((30, 30)), 'classifier', model={model_path!r}).shape)\n"
        "try:\n    import segkit.segmenters.training\nexcept ImportError as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "(30, 30)" in done.stdout
    assert (
        'MissingExtraError Training a classifier needs an optional package. Install it with: pip install "segkit[classifier]"'
        in done.stdout
    )


# Files that are not what they should be


def changed(path, **arrays):
    held = dict(np.load(path))
    held.update(arrays)
    out = io.BytesIO()
    np.savez(out, **held)
    return out.getvalue()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x05\x06" + bytes(18)])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "model.npz").write_bytes(content)
    with pytest.raises(InvalidParameterError, match="not a saved classifier"):
        segmenters.parse_parameters(SEGMENTER, {"model": str(tmp_path / "model.npz")})


def test_a_file_that_holds_python_objects_is_not_run(tmp_path):
    out = io.BytesIO()
    np.savez(out, header=np.array([print], dtype=object))
    with pytest.raises(ModelFileError):
        load_forest(out.getvalue())


def test_trees_that_run_in_circles_or_out_of_bounds_are_refused(model_path):
    forest = load_model(model_path).forest
    inner = np.flatnonzero(forest.feature >= 0)
    for name, value in (("left", 0), ("left", len(forest.left)), ("feature", 9999)):
        array = getattr(forest, name).copy()
        array[inner[-1]] = value
        with pytest.raises(ModelFileError, match="do not fit together"):
            load_forest(changed(model_path, **{name: array}))
    with pytest.raises(ModelFileError, match="do not fit together"):
        load_forest(changed(model_path, roots=np.array([-5], dtype=np.int32)))


def test_a_newer_format_and_a_bomb_are_refused(model_path, tmp_path, monkeypatch):
    header = json.loads(np.load(model_path)["header"].tobytes())
    newer = np.frombuffer(json.dumps({**header, "format": "segkit-forest-99"}).encode(), dtype=np.uint8)
    with pytest.raises(ModelFileError, match="format"):
        load_forest(changed(model_path, header=newer))
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("header.npy", bytes(3 * 2**20))
    monkeypatch.setattr("segkit.segmenters.forest._LARGEST_FILE", 2**20)
    with pytest.raises(ModelFileError, match="unpacks"):
        load_forest((tmp_path / "bomb.npz").read_bytes())


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(ModelFileError, match="model=PATH"):
        segmenters.segment(np.zeros((9, 9)), "classifier")
    with pytest.raises(InvalidParameterError, match="cannot be read"):
        segmenters.segment(np.zeros((9, 9)), "classifier", model=str(tmp_path / "none.npz"))


@pytest.mark.parametrize(
    ("strokes", "said"),
    [
        (np.zeros((150, 170), dtype=int), "background and some object"),
        (np.ones((150, 170), dtype=int), "some object"),
        (np.full((150, 170), 7), "integers 0"),
        (np.ones((3, 3), dtype=int), "shape"),
    ],
)
def test_strokes_that_teach_nothing_are_refused(strokes, said):
    with pytest.raises(TrainingError, match=said):
        train(well(0)[0], strokes)


def test_examples_in_docstrings():
    assert doctest.testmod(segkit.segmenters.training).failed == 0
