"""Segmenters: pure functions from pixels to labels, found by name through the entry-point group `segkit.segmenters`.

A method of one's own is a module with a `Segmenter` in it, and one line in its package's `pyproject.toml`.
"""

from segkit.segmenters.parameters import Parameters, SizedParameters, parameter
from segkit.segmenters.recipe import BoolArray, LabelArray, Recipe, Survey
from segkit.segmenters.registry import Segmenter, broken, get, names, parse_parameters, segment

__all__ = [
    "BoolArray",
    "LabelArray",
    "Parameters",
    "Recipe",
    "Segmenter",
    "SizedParameters",
    "Survey",
    "broken",
    "get",
    "names",
    "parameter",
    "parse_parameters",
    "segment",
]
