"""Runs: queue, list, watch, cancel and retry them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from segkit import catalog, jobs, results, segmenters
from segkit.errors import UnknownImageError, UnknownSegmenterError
from segkit.pages import Page
from segkit.schema import JobStatus
from segkit.server.answers import answer
from segkit.server.parameters import AnyId, Id, Json, Number, Opened, Paged, Text, Whole
from segkit.server.problems import problem_of, told
from segkit.server.queue import Changed
from segkit.server.replies import reading, reply

router = APIRouter(tags=["runs"])

LARGEST_PLANE = 2**31 - 1
Plane = Annotated[int, Field(ge=0, le=LARGEST_PLANE), Whole]
Level = Annotated[int, Field(ge=0, le=64), Whole]
Priority = Annotated[int, Field(ge=-1000, le=1000), Whole]
Status = Annotated[JobStatus | None, Query(description="Only jobs in this state.")]
ProjectId = Annotated[AnyId | None, Query(description="Only runs of this project.")]


class NewRun(BaseModel):
    """A run to be queued."""

    model_config = ConfigDict(extra="forbid")

    segmenter: Text = Field("nuclei", description="Name of a segmenter.")
    parameters: Json = Field(default_factory=dict, description="The segmenter's own.")
    images: list[Id] | None = Field(
        None, description="Numbers of images; without: all of the project, and those added later when asked again."
    )
    channel: Plane | Text | None = Field(None, description="By number or name.")
    z: Plane | Text | None = Field(None, description='Plane by number, or "max", "mean", "volume".')
    level: Level = Field(0, description="Level of the image's pyramid.")
    priority: Priority = Field(0, description="Higher is sooner.")
    notebook: Text | None = Field(None, description="The notebook that asks, for the record.")


@router.get("/api/runs", response_model=Page[jobs.Run], responses=told(400))
async def list_runs(request: Request, kit: Opened, page: Paged, project_id: ProjectId = None) -> Response:
    """List runs, newest first, of one project or of all."""
    return await answer(
        request, None, project_id, reading(kit, lambda connection: jobs.runs(connection, project_id=project_id, **page.place))
    )


@router.get("/api/projects/{project_id}/runs", response_model=Page[jobs.Run], responses=told(400, 404))
async def list_runs_of_project(request: Request, kit: Opened, project_id: Number, page: Paged) -> Response:
    """List the runs of a project, newest first."""

    def look(connection: Connection) -> Page[jobs.Run]:
        found = jobs.runs(connection, project_id=project_id, **page.place)
        if not found.total:
            catalog.project_numbered(connection, project_id)  # no runs, or no project
        return found

    return await answer(request, None, project_id, reading(kit, look))


@router.post("/api/projects/{project_id}/runs", status_code=201, response_model=jobs.Run, responses=told(400, 404))
def make_run(request: Request, kit: Opened, project_id: Number, wanted: NewRun) -> Response:
    """Queue a run. Asking twice does nothing twice: the answer is the run that is there."""
    project = kit.project_numbered(project_id)
    try:
        segmenters.parse_parameters(segmenters.get(wanted.segmenter), wanted.parameters)  # none of them has the name of an argument below
        run = project.segment(
            wanted.segmenter,
            images=wanted.images,
            channel=wanted.channel,
            z=wanted.z,
            level=wanted.level,
            priority=wanted.priority,
            notebook=wanted.notebook,
            **wanted.parameters,
        )
    except (UnknownSegmenterError, UnknownImageError) as error:  # the address is right, what was sent is not
        return problem_of(request.scope, error, 400)
    return reply(run.record, 201, Location=f"../../runs/{run.number}")


@router.get("/api/runs/{run_id}", response_model=jobs.Run, responses=told(404))
async def show_run(request: Request, kit: Opened, run_id: Number) -> Response:
    """Show a run: what was asked for, and where it stands."""
    return await answer(request, None, None, reading(kit, lambda connection: jobs.run(connection, run_id)))


@router.get("/api/runs/{run_id}/progress", response_model=jobs.Progress, responses=told(404))
async def show_progress(request: Request, kit: Opened, run_id: Number) -> Response:
    """Count a run's jobs by status, and its objects."""
    return await answer(request, None, None, reading(kit, lambda connection: jobs.progress(connection, run_id)))


@router.get("/api/runs/{run_id}/jobs", response_model=Page[jobs.Job], responses=told(400, 404))
async def list_jobs(request: Request, kit: Opened, run_id: Number, page: Paged, status: Status = None) -> Response:
    """List a run's jobs, of one status or all."""
    return await answer(request, None, None, reading(kit, lambda connection: jobs.page(connection, run_id, status, **page.place)))


@router.get("/api/runs/{run_id}/results", response_model=Page[results.Record], responses=told(400, 404))
async def list_results(request: Request, kit: Opened, run_id: Number, page: Paged) -> Response:
    """List what the done jobs of a run committed, in the order of the jobs."""
    return await answer(request, "results", None, reading(kit, lambda connection: results.of_run(connection, run_id, **page.place)))


@router.post("/api/runs/{run_id}/cancel", response_model=Changed, responses=told(404))
def cancel_run(kit: Opened, run_id: Number) -> Response:
    """Withdraw all jobs of a run that are not done."""
    return reply({"jobs": kit.run(run_id).cancel()})


@router.post("/api/runs/{run_id}/retry", response_model=Changed, responses=told(404))
def retry_run(kit: Opened, run_id: Number) -> Response:
    """Queue the failed and cancelled jobs of a run again. What is done stays."""
    return reply({"jobs": kit.run(run_id).retry()})
