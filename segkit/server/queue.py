"""The queue: what is left to do, who does it, and why a job failed."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from segkit import jobs
from segkit.server.answers import answer
from segkit.server.parameters import Number, Opened
from segkit.server.problems import told
from segkit.server.replies import reading, reply

router = APIRouter(tags=["queue"])


class Changed(BaseModel):
    """How many jobs an order changed."""

    jobs: int


@router.get("/api/queue", response_model=jobs.Summary)
async def show_queue(request: Request, kit: Opened) -> Response:
    """Count the jobs of all runs by status."""
    return await answer(request, "queue", None, reading(kit, jobs.summary))


@router.get("/api/queue/workers", response_model=list[jobs.Holder])
async def list_workers(request: Request, kit: Opened) -> Response:
    """List who holds jobs now."""
    return await answer(request, None, None, reading(kit, jobs.workers))


@router.get("/api/jobs/{job_id}", response_model=jobs.Job, responses=told(404))
async def show_job(request: Request, kit: Opened, job_id: Number) -> Response:
    """Show a job, with the reason when it failed."""
    return await answer(request, None, None, reading(kit, lambda connection: jobs.job(connection, job_id)))


@router.post("/api/jobs/{job_id}/retry", response_model=Changed, responses=told(404))
def retry_job(kit: Opened, job_id: Number) -> Response:
    """Queue a failed or cancelled job again."""
    return reply({"jobs": kit.retry_job(job_id)})


@router.post("/api/jobs/{job_id}/cancel", response_model=Changed, responses=told(404))
def cancel_job(kit: Opened, job_id: Number) -> Response:
    """Withdraw a job that is not done."""
    return reply({"jobs": kit.cancel_job(job_id)})
