"""Segmenters and export formats: what can be asked for, and with which parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from segkit import exports, segmenters
from segkit.errors import SegmenterBrokenError
from segkit.pages import Page
from segkit.server.answers import answer
from segkit.server.problems import told
from segkit.server.replies import to_json

router = APIRouter(tags=["segmenters"])

LONGEST_NAME = 100


@dataclass(frozen=True)
class About:
    """A segmenter."""

    name: str
    version: str
    summary: str
    colour: bool  #: wants colour images
    exact: bool  #: labels of a large image do not depend on how it is tiled
    parameters: dict[str, Any]  #: JSON schema: names, types, limits, units and defaults


@dataclass(frozen=True)
class Broken:
    """A segmenter that is installed and cannot be loaded."""

    name: str
    reason: str


@dataclass(frozen=True)
class Segmenters:
    """What is installed."""

    items: tuple[About, ...]
    broken: tuple[Broken, ...]
    total: int
    next: None = None


@dataclass(frozen=True)
class Format:
    """A format that results are exported to."""

    name: str
    summary: str


def about(name: str) -> About:
    """Describe one segmenter."""
    found = segmenters.get(name)
    return About(found.name, found.version, found.summary, found.colour, found.exact, found.parameters.model_json_schema())


def installed() -> Segmenters:
    """Describe all segmenters; one that cannot be loaded does not hide the others."""
    good, bad = [], []
    for name in segmenters.names():
        try:
            good.append(about(name))
        except SegmenterBrokenError as error:
            bad.append(Broken(name, str(error)))
    return Segmenters(tuple(good), tuple(bad), len(good))


@router.get("/api/segmenters", response_model=Segmenters)
async def list_segmenters(request: Request) -> Response:
    """List the segmenters that are installed, each with the schema of its parameters."""
    return await answer(request, None, None, lambda: to_json(installed()))


@router.get("/api/segmenters/{name}", response_model=About, responses=told(404))
async def show_segmenter(request: Request, name: Annotated[str, Path(min_length=1, max_length=LONGEST_NAME)]) -> Response:
    """Show a segmenter and the schema of its parameters."""
    return await answer(request, None, None, lambda: to_json(about(name)))


@router.get("/api/formats", response_model=Page[Format])
async def list_formats(request: Request) -> Response:
    """List the formats that results are exported to."""
    known = tuple(Format(name, summary) for name, summary in exports.formats().items())
    return await answer(request, None, None, lambda: to_json(Page(known, len(known))))
