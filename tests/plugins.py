"""A lab's own segmenters for the tests, installed as packages are: a module and its entry point on the path."""

from __future__ import annotations

import textwrap
from pathlib import Path

SLOW = """
import os, signal, time
from scipy import ndimage
from segkit.segmenters import Parameters, Segmenter, parameter

class SlowParameters(Parameters):
    seconds: float = parameter(0.1, "How long it takes.", unit="s", ge=0, le=60)

def segment_slowly(pixels, parameters, pixel_size_um):
    time.sleep(parameters.seconds)
    return ndimage.label(pixels > 100)[0].astype("int32")

SEGMENTER = Segmenter("slow", "1", "Waits, then labels what is bright", SlowParameters, colour=False, function=segment_slowly)
"""

DEADLY = """
import os, signal
from scipy import ndimage
from segkit.segmenters import Parameters, Segmenter

class DeadlyParameters(Parameters):
    pass

def die_of_bright_images(pixels, parameters, pixel_size_um):
    if pixels.min() > 200:
        os.kill(os.getpid(), signal.SIGKILL)
    if pixels.max() == 0:
        raise RuntimeError("this image is black")
    return ndimage.label(pixels > 100)[0].astype("int32")

SEGMENTER = Segmenter("deadly", "1", "Kills its process on a white image", DeadlyParameters, colour=False, function=die_of_bright_images)
"""


def install(site: Path, name: str, code: str) -> Path:
    """Install a segmenter of this name into a folder that is then put on the path; returns the folder."""
    information = site / f"{name}_kit-1.dist-info"
    information.mkdir(parents=True)
    (site / f"{name}_kit.py").write_text(textwrap.dedent(code))
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-kit\nVersion: 1\n")
    (information / "entry_points.txt").write_text(f"[segkit.segmenters]\n{name} = {name}_kit:SEGMENTER\n")
    return site
