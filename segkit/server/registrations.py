"""Registrations that go on in the background: how far they are, and what they added."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fastapi import APIRouter, Request, Response

from segkit import catalog
from segkit.errors import UnknownRegistrationError
from segkit.pages import EPOCH, Page, Place, check_page, decode_cursor, encode_cursor
from segkit.server.background import State, Work
from segkit.server.parameters import Number, Paged, Paging
from segkit.server.problems import told
from segkit.server.replies import reply

router = APIRouter(tags=["images"])


@dataclass(frozen=True)
class Registration:
    """How far it is to register images, and what came of it."""

    id: int
    project_id: int
    state: State
    done: int  #: files looked at
    total: int | None  #: files there are; None: not known yet
    added: int | None  #: None until it has ended, as the three that follow
    duplicates: int | None
    unreadable: int | None
    rescaled: int | None
    error: str | None  #: why it ended early; what was added until then stays
    problem: str | None  #: what kind of error that is, as problem details are titled
    started_at: datetime
    ended_at: datetime | None


def registration_of(work: Work) -> Registration:
    """Describe a piece of work that registers images."""
    added = work.outcome if isinstance(work.outcome, catalog.Added) else None
    names = ("added", "duplicates", "unreadable", "rescaled")
    counts: dict[str, int | None] = {name: None if added is None else getattr(added, name) for name in names}
    return Registration(
        id=work.id,
        project_id=work.key[1],
        state=work.state,
        done=work.done,
        total=work.total,
        error=work.error,
        problem=work.problem,
        started_at=work.started_at,
        ended_at=work.ended_at,
        **counts,
    )


@router.get("/api/registrations/{registration_id}", response_model=Registration, responses=told(404))
def show_registration(request: Request, registration_id: Number) -> Response:
    """Show how far a registration is. It is forgotten when the service stops; the images stay."""
    return reply(registration_of(found(request, registration_id)))


@router.get("/api/registrations/{registration_id}/images", response_model=Page[int], responses=told(400, 404))
def list_registered(request: Request, registration_id: Number, page: Paged) -> Response:
    """List the numbers of the images that a registration found readable, new or not; none before it has ended."""
    outcome = found(request, registration_id).outcome
    numbers = outcome.image_ids if isinstance(outcome, catalog.Added) else ()
    return reply(page_of(numbers, f"images of registration {registration_id}", page))


def found(request: Request, number: int) -> Work:
    """Return the work of a registration.

    Raises
    ------
    UnknownRegistrationError
        There is none of this number.
    """
    work: Work | None = request.app.state.background.find(number)
    if work is None or work.key[0] != "register":
        raise UnknownRegistrationError
    return work


def page_of(numbers: tuple[int, ...], scope: str, page: Paging) -> Page[int]:
    """Cut one page out of a list that is held already.

    Raises
    ------
    PageError, CursorError
        The page cannot be given.
    """
    check_page(page.limit, page.after, page.offset)
    start = (page.offset or 0) if page.after is None else decode_cursor(page.after, scope).id
    stop = start + page.limit
    return Page(numbers[start:stop], len(numbers), encode_cursor(Place(EPOCH, stop), scope) if stop < len(numbers) else None)
