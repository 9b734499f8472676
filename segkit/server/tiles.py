"""Pictures for viewers: thumbnails, deep-zoom tiles of images and of what runs found in them, and the objects' numbers for hovering."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal, cast

import cv2
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, FastAPI, Query, Request, Response
from isal import igzip
from pydantic import BaseModel, Field

from segkit import deepzoom, results
from segkit.deepzoom import Grid
from segkit.errors import ImageReadError, SelectionError
from segkit.images import Image, Selection, thumbnail
from segkit.kit import Image as Registered
from segkit.kit import Kit
from segkit.labels import LabelReader
from segkit.server.compression import choose
from segkit.server.downloads import record_of
from segkit.server.parameters import CleanText, Digits, Number, Opened
from segkit.server.problems import told

router = APIRouter(tags=["tiles"])

#: Decoded pixels that open images may hold together; those looked at longest ago are closed first.
MOST_HELD = 2**29
#: Tiles that are made at once; each holds a band of pixels (`deepzoom.BAND`).
MAKERS = 4
KNOWN_LABELS = 64
#: A tile that was asked for with the version that it shows can be kept for good; others are asked for again, and mostly not sent.
KEPT, ASKED = "private, max-age=31536000, immutable", "private, no-cache"
LARGEST_PLACE = 2**24

Level = Annotated[int, Digits]
#: Limits come before the check of digits, or OpenAPI would not tell them.
Place = Annotated[int, Field(ge=0, le=LARGEST_PLACE), Digits]
Edge = Annotated[
    Annotated[int, Field(ge=deepzoom.EDGES.start, le=deepzoom.EDGES.stop - 1), Digits], Query(description="Edge of the tiles in pixels.")
]
Small = Annotated[Annotated[int, Field(ge=1, le=2048), Digits], Query(description="The longer edge in pixels.")]
Channel = Annotated[CleanText | None, Query(max_length=200, description="By number or name.")]
Plane = Annotated[CleanText | None, Query(max_length=20, description='Plane by number, or "max" or "mean".')]
PlaneNumber = Annotated[Place | None, Query(description="Plane of a volume; without: the highest number along z.")]
Time = Annotated[Place, Query(description="Time point, from 0.")]
Form = Annotated[Literal["webp", "jpeg", "png"], Query(description="How the picture is packed.")]
Style = Annotated[
    Literal["outlines", "fills", "labels"], Query(description="Outlines or fills as PNG, or numbers as little-endian uint32.")
]
Version = Annotated[CleanText | None, Query(max_length=100, description="The `version` of the tiles; with it browsers keep them for good.")]
Opacity = Annotated[float, Query(ge=0, le=1)]

Picture: dict[str, Any] = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/webp", "image/jpeg", "image/png")}
NUMBERS: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
PICTURES: dict[int | str, dict[str, Any]] = {
    200: {"content": Picture},
    304: {"description": "It is the one you have."},
    **told(400, 404, 415),
}
OVERLAYS: dict[int | str, dict[str, Any]] = {**PICTURES, 200: {"content": {"image/png": Picture["image/png"], **NUMBERS}}}


class LevelOfTiles(BaseModel):
    """One level of a grid."""

    rows: int
    columns: int
    down: int  #: tiles
    across: int  #: tiles


class Tiles(BaseModel):
    """How a picture is cut into tiles; level 0 is full size, and each further one half of it."""

    rows: int
    columns: int
    edge: int
    version: str  #: hand it back as `version` with each tile, and browsers keep tiles for good
    levels: list[LevelOfTiles]


# Open images


@dataclass(eq=False)
class Held:
    """An image that is kept open for its next tile."""

    image: Image
    users: int = 0
    contrasts: dict[tuple[Selection, int], tuple[float, float]] = field(default_factory=dict)

    @property
    def weight(self) -> int:
        """Bytes that it may hold: all its pixels when it can only be decoded whole, or its pieces that were decoded last."""
        rows, columns = self.image.levels[0]
        whole = rows * columns * 3
        return whole if self.image.chunks == (rows, columns) else min(whole, 2**27)


class OpenImages:
    """Images that were looked at last, open. Safe to use from several threads."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[int, str], Held] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def opened(self, registered: Registered) -> Iterator[Held]:
        """Yield an open image."""
        record = registered.record
        if record.error is not None:
            raise ImageReadError(record.error)
        key = record.id, record.content_hash
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                held.users += 1
                self._held.move_to_end(key)
        if held is None:
            held = self._keep(key, Held(registered.open(), 1))
        try:
            yield held
        finally:
            with self._lock:
                held.users -= 1
                self._make_room()

    def _keep(self, key: tuple[int, str], new: Held) -> Held:
        with self._lock:
            there = self._held.get(key)
            if there is None:
                self._held[key] = new
                return new
            there.users += 1
        new.image.close()
        return there

    def _make_room(self) -> None:
        """Close images that nobody uses now, the longest unused first, until the rest is not too much."""
        total = sum(held.weight for held in self._held.values())
        for key, held in list(self._held.items()):
            if total <= MOST_HELD:
                return
            if not held.users:
                total -= held.weight
                del self._held[key]
                held.image.close()

    def close(self) -> None:
        """Close all."""
        with self._lock:
            for held in self._held.values():
                held.image.close()
            self._held.clear()


@asynccontextmanager
async def opened(app: FastAPI) -> AsyncIterator[None]:
    """Keep images open for an app, `app.state.images`, and close them."""
    app.state.images = OpenImages()
    app.state.tile_makers = CapacityLimiter(MAKERS)
    try:
        yield
    finally:
        app.state.images.close()


# Images


@router.get("/api/images/{image_id}/thumbnail", response_class=Response, responses=PICTURES)
async def show_thumbnail(
    request: Request,
    kit: Opened,
    image_id: Number,
    edge: Small = 256,
    channel: Channel = None,
    z: Plane = None,
    time: Time = 0,
    form: Form = "webp",
) -> Response:
    """Draw an image small."""
    registered = await to_thread.run_sync(kit.image, image_id)
    selection = selected(channel, z)

    def make() -> bytes:
        with images_of(request).opened(registered) as held:
            return deepzoom.pack(thumbnail(held.image, selection, edge, time), form)

    return await picture(request, (registered.record.content_hash, "thumbnail", edge, selection, time, form), make, f"image/{form}")


@router.get("/api/images/{image_id}/tiles", response_model=Tiles, responses=told(400, 404, 415))
def describe_tiles(request: Request, kit: Opened, image_id: Number, edge: Edge = deepzoom.EDGE) -> Tiles:
    """Tell how an image is cut into tiles."""
    registered = kit.image(image_id)
    with images_of(request).opened(registered) as held:
        return described(deepzoom.grid_of(held.image, edge), registered.record.content_hash)


@router.get("/api/images/{image_id}/tiles/{level}/{column}/{row}", response_class=Response, responses=PICTURES)
async def show_tile(
    request: Request,
    kit: Opened,
    image_id: Number,
    level: Level,
    column: Level,
    row: Level,
    edge: Edge = deepzoom.EDGE,
    channel: Channel = None,
    z: Plane = None,
    time: Time = 0,
    form: Form = "webp",
    version: Version = None,
) -> Response:
    """Draw one tile of an image, with the same contrast in all of them."""
    registered = await to_thread.run_sync(kit.image, image_id)
    selection = selected(channel, z)

    def make() -> bytes:
        with images_of(request).opened(registered) as held:
            deepzoom.grid_of(held.image, edge).place(level, column, row)
            key = selection, time
            if key not in held.contrasts:
                held.contrasts[key] = deepzoom.contrast(held.image, selection, time)
            contrast = held.contrasts[key]
            return deepzoom.image_tile(held.image, selection, level, column, row, time=time, edge=edge, contrast=contrast, form=form)

    name = (registered.record.content_hash, level, column, row, edge, selection, time, form)
    return await picture(request, name, make, f"image/{form}")


# Results


@router.get("/api/runs/{run_id}/images/{image_id}/tiles", response_model=Tiles, responses=told(400, 404))
def describe_overlay_tiles(kit: Opened, run_id: Number, image_id: Number, edge: Edge = deepzoom.EDGE) -> Tiles:
    """Tell how the label image of a result is cut into tiles; lay it over the same extent as the image."""
    record = record_of(kit, run_id, image_id)
    return described(deepzoom.grid_of_labels(labels_of(kit, record), edge), record.checksum)


@router.get("/api/runs/{run_id}/images/{image_id}/tiles/{level}/{column}/{row}", response_class=Response, responses=OVERLAYS)
async def show_overlay_tile(
    request: Request,
    kit: Opened,
    run_id: Number,
    image_id: Number,
    level: Level,
    column: Level,
    row: Level,
    edge: Edge = deepzoom.EDGE,
    style: Style = "outlines",
    opacity: Opacity = 1.0,
    plane: PlaneNumber = None,
    time: Time = 0,
    version: Version = None,
) -> Response:
    """Draw the objects of one tile on nothing, to be laid over the image; or tell their numbers, `Uint32Array` in a browser."""
    record = await to_thread.run_sync(record_of, kit, run_id, image_id)

    def make() -> bytes:
        place: dict[str, Any] = {"time": time, "plane": plane, "edge": edge}
        labels = labels_of(kit, record)
        if style == "labels":
            return deepzoom.label_tile(labels, level, column, row, **place)
        return deepzoom.overlay_tile(labels, level, column, row, style=style, opacity=opacity, **place)

    name = (record.checksum, level, column, row, edge, style, opacity, plane, time)
    return await picture(request, name, make, "application/octet-stream" if style == "labels" else "image/png", packed=style == "labels")


# What both need


def images_of(request: Request) -> OpenImages:
    """Return the open images of the app."""
    return cast(OpenImages, request.app.state.images)


def labels_of(kit: Kit, record: results.Record) -> LabelReader:
    """Return the label image of a result."""
    return _labels(results.locate(kit.settings.home, record.path), record.checksum)


@lru_cache(maxsize=KNOWN_LABELS)
def _labels(path: str, checksum: str) -> LabelReader:
    return results.open_result(path, checksum).labels


def described(grid: Grid, version: str) -> Tiles:
    """Describe a grid for viewers."""
    levels = [LevelOfTiles(rows=rows, columns=columns, down=down, across=across) for (rows, columns), (down, across) in levels_of(grid)]
    return Tiles(rows=grid.rows, columns=grid.columns, edge=grid.edge, version=version, levels=levels)


def levels_of(grid: Grid) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """List the levels of a grid: their sizes in pixels and in tiles."""
    return [(grid.shape(level), grid.tiles(level)) for level in range(grid.levels)]


def selected(channel: str | None, z: str | None) -> Selection:
    """Read a channel and plane from a query.

    Raises
    ------
    SelectionError
        Neither a number nor a word that is known.
    """
    if z is not None and not (z in ("max", "mean") or (z.isascii() and z.isdigit())):
        raise SelectionError(f'There is no plane "{z}": give a number from 0, "max" or "mean".')
    return Selection(
        channel if channel is None or not (channel.isascii() and channel.isdigit()) else int(channel),
        None if z is None else int(z) if z.isdigit() else z,
    )


async def picture(request: Request, name: tuple[Any, ...], make: Callable[[], bytes], media_type: str, *, packed: bool = False) -> Response:
    """Answer with a picture that its name determines, the version first: not even made when the client has it."""
    tag = f'"{hashlib.blake2b(repr((cv2.__version__, name)).encode(), digest_size=12).hexdigest()}"'
    kept = request.query_params.get("version") == name[0]
    headers = {"ETag": tag, "Cache-Control": KEPT if kept else ASKED, "X-Content-Type-Options": "nosniff"}
    known = request.headers.get("if-none-match", "")
    if tag in known:
        return Response(status_code=304, headers=headers)
    body = await to_thread.run_sync(make, limiter=request.app.state.tile_makers)
    if packed:
        headers["Vary"] = "Accept-Encoding"
        if choose(request.headers.get("accept-encoding", "")) is not None and "gzip" in request.headers["accept-encoding"]:
            headers |= {"Content-Encoding": "gzip", "ETag": f"W/{tag}"}
            body = await to_thread.run_sync(igzip.compress, body, 1)
    return Response(body, media_type=media_type, headers=headers)
