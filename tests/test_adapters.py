"""Cellpose and StarDist themselves are too large to test with; stand-ins with their signatures show what they are handed."""

import subprocess
import sys
import textwrap

import pytest

from segkit.segmenters import get

RUN = """
import sys; sys.path.insert(0, {folder!r})
import numpy as np
from segkit import segmenters
from segkit.errors import SegkitError
image = np.zeros((40, 50)); image[5:15, 5:15] = 1; image[20:35, 20:35] = 2
try:
    labels = segmenters.segment(image, {name!r}, **{options!r})
    print(labels.dtype, np.unique(labels).tolist(), labels[10, 10], labels[30, 30])
except SegkitError as error:
    print(type(error).__name__, error)
"""

CELLPOSE = """
import numpy as np
class CellposeModel:
    def __init__(self, gpu=False, pretrained_model="cpsam"):
        if pretrained_model == "offline":
            raise ConnectionError("no route to host")
        assert gpu is False
    def eval(self, x, diameter=None, cellprob_threshold=0.0, flow_threshold=0.4, min_size=15):
        assert (diameter, min_size) == (12.0, 15)
        return np.where(x == 2, 1, np.where(x == 1, 7, 0)).astype(np.uint16), None, None
"""

STARDIST = """
import numpy as np
class StarDist2D:
    @classmethod
    def from_pretrained(cls, name):
        if name == "offline":
            raise ConnectionError("no route to host")
        return cls() if name.startswith("2D") else None
    def predict_instances(self, img, prob_thresh=None, nms_thresh=None, verbose=None):
        assert img.dtype == np.float32 and prob_thresh == 0.4 and nms_thresh is None and img.min() == 0
        return np.where(img > 0.9, 1, np.where(img > 0.2, 7, 0)).astype(np.int32), {}
"""


def run(folder, name, **options):
    script = RUN.format(folder=str(folder), name=name, options=options)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120).stdout.strip()


def stand_in(folder, **modules):
    for name, source in modules.items():
        package, _, module = name.partition("__")
        (folder / package).mkdir(exist_ok=True)
        (folder / package / "__init__.py").touch()
        if module:
            (folder / package / f"{module}.py").write_text(textwrap.dedent(source))
    return folder


@pytest.mark.parametrize("name", ["cellpose", "stardist", "onnx"])
def test_adapters_are_there_without_their_packages_and_say_that_they_are_not_exact(name):
    heavy = ["torch", "tensorflow", "onnxruntime"]
    script = f"import sys; from segkit.segmenters import get; get({name!r}); print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    assert not get(name).exact
    assert "Not tile-exact" in get(name).summary


@pytest.mark.parametrize("name", ["cellpose", "stardist"])
def test_what_is_not_installed_is_named_with_the_way_to_install_it(tmp_path, name):
    blocked = stand_in(tmp_path, **{f"{package}__gone": "" for package in ("torch",)})
    (blocked / "torch" / "__init__.py").write_text("raise ImportError('not here')")
    (blocked / "tensorflow.py").write_text("raise ImportError('not here')")
    (blocked / "cellpose.py").write_text("raise ImportError('not here')")
    assert (
        run(blocked, name)
        == f'MissingExtraError The segmenter "{name}" needs an optional package. Install it with: pip install "segkit[{name}]"'
    )


def test_cellpose_is_called_as_it_wants(tmp_path):
    folder = stand_in(tmp_path, cellpose__models=CELLPOSE)
    assert run(folder, "cellpose", diameter=12) == "int32 [0, 1, 2] 1 2"
    assert "ModelFileError" in run(folder, "cellpose", diameter=12, model="offline")


def test_stardist_is_called_as_it_wants(tmp_path):
    folder = stand_in(tmp_path, stardist__models=STARDIST, tensorflow="")
    assert run(folder, "stardist", probability=0.4, darkest=0, brightest=100) == "int32 [0, 1, 2] 1 2"
    assert "fetched when the machine is online" in run(folder, "stardist", model="offline")
    assert 'no pretrained model "3D"' in run(folder, "stardist", model="3D")
