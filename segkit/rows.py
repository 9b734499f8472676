"""Many rows in one parameter: how ids and values are handed to the database, whatever their number.

Values that are written into a statement make another statement of each length, and SQLite limits how many there may be.
Here they travel as one JSON text, which the database reads as a table; the statement stays the same and is prepared once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import JSON, BigInteger, FromClause, Select, bindparam, cast, column, func, select
from sqlalchemy.sql.type_api import TypeEngine

Types = Mapping[str, TypeEngine[Any] | type[TypeEngine[Any]]]


def given(dialect: str, types: Types, parameter: str = "given") -> FromClause:
    """Stand for rows of these columns, handed over as the parameter `given`, or one of another name: a list of dicts.

    Examples
    --------
    >>> from sqlalchemy import Integer, create_engine, select
    >>> points = given("sqlite", {"x": Integer(), "y": Integer()})
    >>> with create_engine("sqlite://").connect() as connection:
    ...     connection.execute(select(points.c.y), {"given": [{"x": 1, "y": 10}, {"x": 2, "y": 20}]}).scalars().all()
    [10, 20]
    """
    rows = bindparam(parameter, type_=JSON)
    if dialect == "postgresql":
        typed = [column(name, kind) for name, kind in types.items()]
        return func.json_to_recordset(rows).table_valued(*typed, name=parameter).render_derived(with_types=True)
    each = func.json_each(rows).table_valued("value", name="each")
    return select(*(_extracted(each.c.value, name, kind).label(name) for name, kind in types.items())).subquery(parameter)


def _extracted(value: Any, name: str, kind: Any) -> Any:
    """SQLite's JSON stays the text that it is; a cast would make a number of it."""
    found = func.json_extract(value, f"$.{name}", type_=kind)
    return found if isinstance(kind, JSON) else cast(found, kind)


def given_ids(dialect: str) -> Select[tuple[int]]:
    """Select the ids that `hand_ids` hands over."""
    return select(given(dialect, {"id": BigInteger()}).c.id)


def hand_ids(ids: Iterable[int]) -> dict[str, Any]:
    """Make the parameter of a statement that uses `given_ids`."""
    return {"given": [{"id": number} for number in ids]}
