"""Projects: list, find, make and delete them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from segkit import catalog, jobs
from segkit.catalog.projects import LONGEST_NAME
from segkit.pages import Page
from segkit.server.answers import answer
from segkit.server.parameters import PATTERN, Number, Opened, Paged, clean
from segkit.server.problems import told
from segkit.server.replies import reading, reply, writing

router = APIRouter(tags=["projects"])

Named = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME, pattern=PATTERN), AfterValidator(clean)]
Name = Annotated[Named, Query()]


class NewProject(BaseModel):
    """A project to be made."""

    model_config = ConfigDict(extra="forbid")

    name: Named
    exist_ok: bool = Field(False, strict=True, description="Answer with the project of this name when there is one.")


@router.get("/api/projects", response_model=Page[catalog.Project], responses=told(400))
async def list_projects(request: Request, kit: Opened, page: Paged) -> Response:
    """List projects, newest first."""
    look = writing(kit, lambda connection: catalog.projects_json(connection, **page.place))
    return await answer(request, "projects", None, look, written=catalog.projects_written(**page.place))


@router.get("/api/activity", response_model=Page[jobs.Activity], responses=told(400))
async def list_activity(request: Request, kit: Opened, page: Paged) -> Response:
    """List projects, newest first, with their images, jobs and objects of now."""
    return await answer(request, None, None, reading(kit, lambda connection: jobs.activity(connection, **page.place)))


@router.post("/api/projects", status_code=201, response_model=catalog.Project, responses=told(400, 409))
def make_project(kit: Opened, wanted: NewProject) -> Response:
    """Make a project."""
    made = kit.project(wanted.name, create=True) if wanted.exist_ok else kit.new_project(wanted.name)
    return reply(made.record, 201, Location=f"projects/{made.record.id}")


@router.get("/api/project", response_model=catalog.Project, responses=told(404))
async def find_project(request: Request, kit: Opened, name: Name) -> Response:
    """Find a project by its name."""
    return await answer(request, None, None, reading(kit, lambda connection: catalog.project(connection, name)))


@router.get("/api/projects/{project_id}", response_model=catalog.Project, responses=told(404))
async def show_project(request: Request, kit: Opened, project_id: Number) -> Response:
    """Show a project."""
    look = reading(kit, lambda connection: catalog.project_numbered(connection, project_id))
    return await answer(request, "projects", project_id, look)


@router.delete("/api/projects/{project_id}", status_code=204, response_class=Response, responses=told(404, 409))
def delete_project(
    kit: Opened, project_id: Number, confirm: Annotated[bool, Query(description="Must be true: nothing brings it back.")] = False
) -> Response:
    """Delete a project with its runs and all their results. The image files stay."""
    kit.project_numbered(project_id).delete(confirm=confirm)
    return Response(status_code=204)
