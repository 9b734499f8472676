"""Images: list them, register them from where they lie, or send them."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from segkit import catalog, results
from segkit.errors import UploadError, UploadTooLargeError
from segkit.folders import Folders
from segkit.pages import Page
from segkit.server.answers import answer
from segkit.server.parameters import After, CleanText, Limit, Number, Offset, Opened, Paged, Text
from segkit.server.problems import told
from segkit.server.registrations import Registration, registration_of
from segkit.server.replies import reading, reply, writing
from segkit.uploads import LONGEST_NAME, Upload, checked_name

router = APIRouter(tags=["images"])

#: An upload's body, as OpenAPI tells it; the route reads the stream itself.
BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}
MOST_PLACES = 1000
Micrometres = Annotated[float | None, Field(strict=True, gt=0, lt=1e9, allow_inf_nan=False)]
Name = Annotated[CleanText, Query(min_length=1, max_length=LONGEST_NAME, description="What the file is called.")]
Unreadable = Annotated[bool, Query(description="Only those that cannot be read, each with its reason.")]


class Places(BaseModel):
    """Where images lie that are to be registered."""

    model_config = ConfigDict(extra="forbid")

    where: list[Text] = Field(
        min_length=1, max_length=MOST_PLACES, description="Files, folders, patterns and URLs, as the service sees them."
    )
    pixel_size_um: Micrometres = Field(None, description="Micrometres per pixel; outweighs what the files say.")
    z_step_um: Micrometres = Field(None, description="Micrometres between planes; outweighs what the files say.")


@router.get("/api/projects/{project_id}/images", response_model=Page[catalog.Image], responses=told(400, 404))
async def list_images(
    request: Request, project_id: Number, limit: Limit = 100, after: After = None, offset: Offset = None, unreadable: Unreadable = False
) -> Response:
    """List the images of a project, newest first."""

    # The busiest route: without dependencies of its own FastAPI needs a third of the time to call it.
    def look(connection: Connection) -> bytes:
        return catalog.images_json(connection, project_id, limit, after=after, offset=offset, unreadable=unreadable)

    written = catalog.images_written(project_id, limit, after=after, offset=offset, unreadable=unreadable)
    return await answer(request, "images", project_id, writing(request.app.state.kit, look), written=written)


@router.get("/api/images/{image_id}", response_model=catalog.Image, responses=told(404))
async def show_image(request: Request, kit: Opened, image_id: Number) -> Response:
    """Show an image: where it lies, its axes, size and scale, or why it cannot be read."""
    return await answer(request, None, None, reading(kit, lambda connection: catalog.image(connection, image_id)))


@router.get("/api/images/{image_id}/results", response_model=Page[results.Record], responses=told(400, 404))
async def list_results_of_image(request: Request, kit: Opened, image_id: Number, page: Paged) -> Response:
    """List what the runs found in an image, newest first."""
    return await answer(request, "results", None, reading(kit, lambda connection: results.of_image(connection, image_id, **page.place)))


@router.post("/api/projects/{project_id}/images", status_code=202, response_model=Registration, responses=told(400, 403, 404))
def register_images(request: Request, kit: Opened, project_id: Number, wanted: Places) -> Response:
    """Begin to register images from where they lie. It goes on in the background; the answer says where to ask how far it is.

    Registering the same again adds nothing twice.
    """
    project = kit.project_numbered(project_id)
    folders = folders_of(request)
    if folders is not None:
        for place in wanted.where:
            folders.check(place)

    def register(progress: Any) -> catalog.Added:
        where = wanted.where if folders is None else folders.discover(wanted.where)
        return project.add(where, pixel_size_um=wanted.pixel_size_um, z_step_um=wanted.z_step_um, progress=progress)

    work = request.app.state.background.start(("register", project_id, wanted.model_dump_json()), register)
    started = registration_of(work)
    return reply(started, 202, Location=f"{request.scope.get('root_path', '')}/api/registrations/{started.id}")


def folders_of(request: Request) -> Folders | None:
    """From where images may be registered; None: from wherever the service may read, which only its own user asks of it."""
    allowed = request.app.state.settings.data_folders
    return Folders(allowed) if allowed or request.app.state.access.exposed else None


@router.post(
    "/api/projects/{project_id}/uploads",
    status_code=201,
    response_model=catalog.Image,
    responses=told(400, 404, 413, 415, 507),
    openapi_extra=BODY,
)
async def upload_image(request: Request, kit: Opened, project_id: Number, name: Name) -> Response:
    """Register the image file that is the body of the request. One of the same contents is not added twice."""
    most = kit.settings.upload_max_bytes
    checked_name(name)
    refuse_length(request.headers.get("content-length"), most)
    project = await to_thread.run_sync(kit.project_numbered, project_id)
    upload = await to_thread.run_sync(Upload, kit.settings.home, project_id, name, most)
    try:
        async for piece in request.stream():
            if upload.add(piece):
                await to_thread.run_sync(upload.write)
        image = await to_thread.run_sync(project.add_upload, upload)
    finally:
        upload.__exit__()
    return reply(image.record, 201, Location=f"{request.scope.get('root_path', '')}/api/images/{image.id}")


def refuse_length(length: str | None, most: int) -> None:
    """Refuse a body by the length that it announces, before any of it is sent."""
    if length is not None and length.isascii() and length.isdigit() and int(length[:20]) > most:
        raise UploadTooLargeError
    if length == "0":
        raise UploadError("The upload is empty. Send the file's bytes as the body of the request.")
