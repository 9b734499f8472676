"""The service that one writes first: FastAPI, ORM objects through pydantic models, OFFSET, nothing kept. What `service.py` compares with.

It counts its statements, so that both can be compared. Its list tells the total from the project's counter, which is generous: with
`count(*)` over a million rows it would answer a few requests a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from fastapi import Depends, FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy import create_engine, event, func, select
from sqlalchemy.orm import Session, sessionmaker

from segkit.schema import Image, Job, JobStatus, Project, Run


class ImageOut(BaseModel):
    """An image as the service sends it."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    project_id: int
    content_hash: str
    uri: str
    name: str
    format: str | None
    axes: str | None
    shape: list[int] | None
    dtype: str | None
    channels: list[str] | None
    pixel_size_um: float | None
    z_step_um: float | None
    time_step_s: float | None
    bytes: int
    error: str | None
    created_at: datetime


class Images(BaseModel):
    """A page of images."""

    items: list[ImageOut]
    total: int


class ProjectOut(BaseModel):
    """A project as the service sends it."""

    id: int
    name: str
    created_at: datetime
    images: int
    jobs: int


def create_app(url: str) -> FastAPI:
    """Make the naive app over a PostgreSQL database."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), pool_size=10)
    sessions = sessionmaker(engine)
    app = FastAPI()
    app.state.statements = 0

    def count(*arguments: object) -> None:
        app.state.statements += 1

    event.listen(engine, "before_cursor_execute", count)

    def session() -> Iterator[Session]:
        with sessions() as opened:
            yield opened

    opening = Depends(session)

    @app.get("/api/projects/{project_id}/images", response_model=Images)
    def images(project_id: int, limit: int = 100, offset: int = 0, opened: Session = opening) -> Images:
        project = opened.get_one(Project, project_id)
        return Images(items=images_of(opened, project_id, limit, offset), total=project.images)

    @app.get("/api/projects", response_model=list[ProjectOut])
    def projects(limit: int = 100, opened: Session = opening) -> list[ProjectOut]:
        found = opened.scalars(select(Project).order_by(Project.created_at.desc(), Project.id.desc()).limit(limit)).all()
        return [ProjectOut(id=p.id, name=p.name, created_at=p.created_at, images=p.images, jobs=jobs_of(opened, p.id)) for p in found]

    @app.get("/api/queue")
    def queue(opened: Session = opening) -> dict[str, int]:
        counts = {status: opened.scalar(select(func.count()).where(Job.status == status)) or 0 for status in JobStatus}
        return {str(status): number for status, number in counts.items()}

    @app.get("/statements")
    async def statements() -> int:
        return int(app.state.statements)

    return app


def images_of(opened: Session, project_id: int, limit: int, offset: int) -> list[ImageOut]:
    """Find a page of images."""
    wanted = select(Image).where(Image.project_id == project_id).order_by(Image.created_at.desc(), Image.id.desc())
    return [ImageOut.model_validate(image) for image in opened.scalars(wanted.offset(offset).limit(limit)).all()]


def jobs_of(opened: Session, project_id: int) -> int:
    """Count the jobs of one project: the statement that comes once for each."""
    return opened.scalar(select(func.count()).select_from(Job).join(Run).where(Run.project_id == project_id)) or 0
