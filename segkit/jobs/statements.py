"""Parts of statements that several modules of the queue share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    FromClause,
    Integer,
    Select,
    any_,
    bindparam,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from segkit.database import now_sql
from segkit.rows import given
from segkit.schema import Base, ErrorKind, JobStatus, Moment

job, run, image, project, result = (Base.metadata.tables[name] for name in ("job", "run", "image", "project", "result"))

#: A reason longer than this tells a person nothing more.
LONGEST_REASON = 10_000
#: Longest wait before a failed attempt is repeated, in seconds.
LONGEST_WAIT = 600.0


def now() -> ColumnElement[datetime]:
    """The database's clock, read once for a whole statement."""
    return select(now_sql()).scalar_subquery()


class later(FunctionElement[datetime]):
    """The database's clock, plus seconds: some of our own, or those that the parameter of this name gives."""

    type = Moment()
    inherit_cache = True

    def __init__(self, seconds: str | float) -> None:
        given = bindparam(seconds, type_=Float) if isinstance(seconds, str) else literal_column(str(seconds), Float)
        super().__init__(now(), given)


@compiles(later, "postgresql")
def _later_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    start, seconds = (compiler.process(each, **options) for each in element.clauses)
    return f"({start} + make_interval(secs => {seconds}))"


@compiles(later, "sqlite")
def _later_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    start, seconds = (compiler.process(each, **options) for each in element.clauses)
    return f"strftime('%Y-%m-%d %H:%M:%f', {start}, printf('%+.3f seconds', {seconds})) || '000'"


def is_due(not_before: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Have waited long enough. A wait that is longer than any comes of a clock that was set back since, and holds nothing up."""
    return or_(not_before <= now(), not_before > later(LONGEST_WAIT + 1))


class Attempt(Protocol):
    """Anything that names one attempt of a job: a claim, a finished or a failed one."""

    @property
    def job_id(self) -> int:
        """Which job."""

    @property
    def attempt(self) -> int:
        """The fencing token."""


def given_attempts(dialect: str) -> FromClause:
    """Stand for the attempts that `hand_attempts` hands over: job `id` and `attempt`."""
    return given(dialect, {"id": BigInteger(), "attempt": Integer()})


def hand_attempts(attempts: Iterable[Attempt]) -> dict[str, Any]:
    """Parameters of a statement that uses `given_attempts`."""
    return {"given": [{"id": each.job_id, "attempt": each.attempt} for each in attempts]}


def has_status(*statuses: JobStatus) -> ColumnElement[bool]:
    """Be in one of these states, which are written into the statement: a partial index is not used for a parameter."""
    words = [word(status) for status in statuses]
    return job.c.status == words[0] if len(words) == 1 else job.c.status.in_(words)


def has_kind(kinds: Sequence[ErrorKind]) -> ColumnElement[bool]:
    """Have failed last for one of these reasons."""
    return job.c.error_kind.in_([word(kind) for kind in kinds])


def is_one_of(dialect: str, column: ColumnElement[int], ids: Select[tuple[int]]) -> ColumnElement[bool]:
    """Be one of a few ids that a query finds.

    PostgreSQL cannot know that they are few, and would rather read the whole table to look for them in. Of an array it
    believes it, and looks each up.
    """
    return column == any_(func.array(ids.scalar_subquery())) if dialect == "postgresql" else column.in_(ids)


def number(value: int) -> ColumnElement[int]:
    """Write one of our own numbers into a statement, so that its plan can reckon with it."""
    return literal_column(str(value), Integer)


def word(value: str) -> ColumnElement[str]:
    """Write one of our own words into a statement."""
    return literal_column(f"'{value}'")


def sayable(reason: str) -> str:
    r"""Make a reason storable: PostgreSQL takes no NUL, and neither database the half characters of a badly named file.

    Examples
    --------
    >>> print(sayable("caf\udce9.tif\x00"))
    caf\udce9.tif
    """
    return reason.replace("\0", "").encode("utf-8", "backslashreplace").decode()[:LONGEST_REASON]
