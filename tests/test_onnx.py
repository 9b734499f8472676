import numpy as np
import onnx_files as files
import pytest
from onnx_files import FLOAT, INT64, UINT8

from segkit import segmenters
from segkit.errors import InvalidParameterError, ModelFileError
from segkit.scoring import score
from segkit.segmenters import optional

ANY = ("n", 1, "rows", "columns")


def discs(shape=(90, 120), touching=True):
    """A gray image of four discs, two of them touching; and their truth."""
    y, x = np.indices(shape)
    centres = [(25, 25), (25, 44 if touching else 60), (65, 90), (66, 30)]
    truth = np.zeros(shape, dtype=np.int32)
    for number, (row, column) in enumerate(centres, start=1):
        truth[((y - row) ** 2 + (x - column) ** 2 < 100) & (truth == 0)] = number
    return np.where(truth > 0, 200, 10).astype(np.uint8), truth


@pytest.fixture
def save(tmp_path):
    def write(content, name="model.onnx"):
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write


def identity(shape, kind=FLOAT):
    return files.model([files.node("Identity", ["image"], "out")], [files.value("image", kind, shape)], [files.value("out", kind, shape)])


@pytest.mark.parametrize("shape", [("rows", "columns"), (1, "rows", "columns"), ANY, (1, "rows", "columns", 1), ("n", 1, 96, 128)])
def test_a_probability_map_becomes_objects_whatever_the_axes(save, shape):
    image, truth = discs()
    labels = segmenters.segment(image, "onnx", model=save(identity(shape)), scale="range")
    assert labels.dtype == np.int32
    assert score(truth, labels).at(0.7).f1 == 1.0


def test_a_model_of_three_channels_gets_gray_three_times(save):
    mean = files.node("ReduceMean", ["image"], "out", keepdims=1)
    content = files.model([mean], [files.value("image", FLOAT, (1, 3, 96, 128))], [files.value("out", FLOAT, (1, 1, 1, 1))])
    with pytest.raises(ModelFileError, match="none of these is an image"):
        segmenters.segment(discs()[0], "onnx", model=save(content))
    sliced = files.model(
        [files.node("ReduceMax", ["image"], "one", keepdims=1), files.node("Mul", ["image", "one"], "out")],
        [files.value("image", FLOAT, (1, 3, "rows", "columns"))],
        [files.value("out", FLOAT, (1, 3, "rows", "columns"))],
    )
    # Three equal maps are taken for background, inside and border: what is dark is then foreground.
    assert segmenters.segment(255 - discs()[0], "onnx", model=save(sliced, "three.onnx"), scale="range").max() >= 3


def test_foreground_and_depth_split_where_the_depth_says(save):
    image, _ = discs()
    # The depth is high in the left half of the image and in the right one, and low at column 60 between them.
    ramp = np.abs(np.arange(128, dtype=np.float32) - 34.5)[None, None, None] / 60
    nodes = [
        files.node("Mul", ["image", "ramp"], "depth"),
        files.node("Concat", ["image", "depth"], "out", axis=1),
    ]
    content = files.model(
        nodes, [files.value("image", FLOAT, (1, 1, 96, 128))], [files.value("out", FLOAT, (1, 2, 96, 128))], [files.tensor("ramp", ramp)]
    )
    labels = segmenters.segment(image, "onnx", model=save(content), scale="range")
    assert len(set(labels[25, 18:52]) - {0}) == 2


def test_labels_are_taken_as_they_are(save):
    _, truth = discs()
    cast = files.node("Cast", ["image"], "out", to=INT64)
    content = files.model([cast], [files.value("image", FLOAT, ANY)], [files.value("out", INT64, ANY)])
    labels = segmenters.segment(truth.astype(np.uint8), "onnx", model=save(content), scale="none")
    np.testing.assert_array_equal(labels, truth)


def test_masks_and_scores_the_strongest_on_top(save):
    image = np.zeros((64, 64), dtype=np.uint8)
    image[8:40, 8:40], image[20:30, 20:30] = 100, 200
    above = np.array([50, 150, 50], dtype=np.float32).reshape(1, 3, 1, 1)
    nodes = [
        files.node("Greater", ["image", "above"], "bool"),
        files.node("Cast", ["bool"], "masks", to=FLOAT),
        files.node("Identity", ["strength"], "scores"),
    ]
    outputs = [files.value("masks", FLOAT, ("n", 3, "rows", "columns")), files.value("scores", FLOAT, (3,))]
    constants = [files.tensor("above", above), files.tensor("strength", np.array([0.8, 0.9, 0.3], dtype=np.float32))]
    content = files.model(nodes, [files.value("image", FLOAT, ANY)], outputs, constants)
    labels = segmenters.segment(image, "onnx", model=save(content), scale="none")
    assert labels.max() == 2
    assert labels[10, 10] == 1
    assert labels[25, 25] == 2


def test_bytes_are_handed_over_as_bytes(save):
    _, truth = discs()
    cast = files.node("Cast", ["image"], "out", to=FLOAT)
    content = files.model([cast], [files.value("image", UINT8, ANY)], [files.value("out", FLOAT, ANY)])
    assert segmenters.segment((truth > 0) * np.uint8(200), "onnx", model=save(content), scale="none").max() == 4


def test_a_run_remembers_which_file_it_used(save):
    path = save(identity(ANY))
    parameters = segmenters.parse_parameters(segmenters.get("onnx"), {"model": path})
    assert parameters.model_hash == optional.file_hash(identity(ANY))
    save(identity((1, "rows", "columns")))
    with pytest.raises(ModelFileError, match="changed since"):
        segmenters.segment(discs()[0], "onnx", model=path, model_hash=parameters.model_hash)


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(1000), identity(ANY)[:40]])
def test_what_is_no_model_is_refused(save, content):
    with pytest.raises(ModelFileError, match="not an ONNX model that can be run"):
        segmenters.segment(discs()[0], "onnx", model=save(content))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([files.value("image", INT64, ANY)], "tensor\\(int64\\)"),
        ([files.value("image", FLOAT, (7,))], "no image"),
        ([files.value("image", FLOAT, (4, 1, 64, 64))], "alone in its batch"),
        ([files.value("image", FLOAT, (1, 5, 64, 7))], "1 or 3 channels"),
        ([files.value("image", FLOAT, ANY), files.value("more", FLOAT, ANY)], "takes 2 inputs"),
    ],
)
def test_models_with_other_inputs_are_refused(save, inputs, said):
    content = files.model([files.node("Identity", ["image"], "out")], inputs, [files.value("out", INT64 if "int64" in said else FLOAT, ())])
    with pytest.raises(ModelFileError, match=said):
        segmenters.segment(discs()[0], "onnx", model=save(content))


def test_a_missing_file_and_no_file_are_named(tmp_path):
    with pytest.raises(ModelFileError, match="model=PATH"):
        segmenters.segment(discs()[0], "onnx")
    with pytest.raises(InvalidParameterError, match="cannot be read"):
        segmenters.segment(discs()[0], "onnx", model=str(tmp_path / "none.onnx"))


def test_it_is_labelled_as_not_exact():
    assert not segmenters.get("onnx").exact
