"""Pass 1: the statistics of every tile, merged into the global numbers of the image."""

from __future__ import annotations

from collections.abc import Iterator

from segkit.segmenters import Survey
from segkit.tiling.grid import Box, Tile
from segkit.tiling.work import SURVEY, Work, pack_survey, read_survey


def survey_name(tile: Tile) -> str:
    """Name of the record of a tile's statistics."""
    return f"survey/{tile.row}-{tile.column}"


def survey_tile(work: Work, box: Box, tile: Tile) -> bool:
    """Survey one tile; return False if that was done."""
    if work.scratch.find(survey_name(tile)):
        return False
    view = box.grown(work.recipe.survey_halo(work.parameters), work.shape)
    margins = (box.top - view.top, box.left - view.left, view.bottom - box.bottom, view.right - box.right)
    pixels = work.segmenter.prepare(work.read(view))
    survey = work.recipe.survey(pixels, box.top, box.left, work.parameters, margins)
    work.scratch.write(survey_name(tile), pack_survey(survey))
    return True


def merge_surveys(work: Work) -> None:
    """Merge the surveys of all tiles, one at a time, into the one that `Work.plan` reads."""
    if not work.scratch.find(SURVEY):
        work.scratch.write(SURVEY, pack_survey(work.recipe.merge(_read_all(work), work.shape)))


def _read_all(work: Work) -> Iterator[Survey]:
    return (read_survey(work.scratch.read(survey_name(tile))) for tile in work.grid.tiles)
