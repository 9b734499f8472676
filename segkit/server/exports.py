"""Exports of a run: built on demand in the background, kept until the run changes, and downloaded from where the answer says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Path, Request, Response

from segkit import building, exports
from segkit.errors import UnknownExportError
from segkit.pages import Page
from segkit.runs import Run
from segkit.server.background import Progress, State
from segkit.server.parameters import Number, Opened
from segkit.server.problems import told
from segkit.server.replies import reply

router = APIRouter(tags=["exports"])

LONGEST_NAME = 50
Name = Annotated[str, Path(min_length=1, max_length=LONGEST_NAME, description="Name of a format.")]


@dataclass(frozen=True)
class Export:
    """The export of what a run holds now, in one format."""

    run_id: int
    format: str
    summary: str
    state: State | None  #: None: nobody asked for it since the run changed
    done: int  #: images written
    total: int  #: images to write
    files: int | None  #: None until it is done, as the two that follow
    bytes: int | None
    download: str | None  #: path to download it from: its file, or its folder as a ZIP archive
    error: str | None
    problem: str | None  #: what kind of error that is, as problem details are titled


@router.get("/api/runs/{run_id}/exports", response_model=Page[Export], responses=told(404))
def list_exports(request: Request, kit: Opened, run_id: Number) -> Response:
    """List the formats that a run can be exported to, and which exports are there."""
    run = kit.run(run_id)
    found = tuple(export_of(request, run, format) for format in exports.FORMATS)
    return reply(Page(found, len(found)))


@router.get("/api/runs/{run_id}/exports/{format}", response_model=Export, responses=told(404))
def show_export(request: Request, kit: Opened, run_id: Number, format: Name) -> Response:
    """Show an export: how far it is, and where to download it when it is done."""
    return reply(export_of(request, kit.run(run_id), known(format)))


@router.post("/api/runs/{run_id}/exports/{format}", status_code=202, response_model=Export, responses=told(404))
def build_export(request: Request, kit: Opened, run_id: Number, format: Name) -> Response:
    """Begin to build an export, unless it is there or being built."""
    run = kit.run(run_id)
    there = export_of(request, run, known(format))
    if there.state in (State.DONE, State.RUNNING, State.WAITING):
        return reply(there, 202)
    total = run.record.done

    def build(progress: Progress) -> building.Built:
        done = 0

        def count(steps: int, name: str) -> None:
            nonlocal done
            done += steps
            progress(done, total)

        return run.build(format, count)

    request.app.state.background.start(("export", run_id, format), build)
    return reply(export_of(request, run, format), 202)


def known(format: str) -> str:
    """Refuse a format that there is not."""
    if format not in exports.FORMATS:
        raise UnknownExportError(format, exports.FORMATS)
    return format


def export_of(request: Request, run: Run, format: str) -> Export:
    """Describe the export of what a run that was looked up now holds."""
    about = (run.number, format, exports.FORMATS[format].summary)
    built = building.find(run.kit.settings.home, run.number, format, building.stamp_of(run.number, run.record))
    if built is not None:
        place = f"{request.scope.get('root_path', '')}/api/download/exports/{quote(built.name)}{'' if built.single else '.zip'}"
        return Export(*about, State.DONE, run.record.done, run.record.done, built.files, built.bytes, place, None, None)
    work = request.app.state.background.latest(("export", run.number, format))
    state = None if work is None or work.state is State.DONE else work.state
    done, error, problem = (0, None, None) if work is None or state is None else (work.done, work.error, work.problem)
    return Export(*about, state, done, run.record.done, None, None, None, error, problem)
