"""Many rows in one parameter arrive in both databases as they were handed over."""

from __future__ import annotations

import json

from sqlalchemy import JSON, BigInteger, Double, Text, select

from segkit.database import Database
from segkit.rows import given, given_ids, hand_ids

TYPES = {"id": BigInteger(), "name": Text(), "size": Double(), "summary": JSON()}


def test_values_of_every_kind_arrive_unchanged(database: Database) -> None:
    rows = [
        {"id": 2**40, "name": 'it\'s "µ" \N{MICROSCOPE}\n', "size": 0.1 + 0.2, "summary": {"objects": 3, "mean": [1.5, None]}},
        {"id": -1, "name": None, "size": None, "summary": {}},
    ]
    with database.read() as connection:
        found = connection.execute(select(given(database.dialect, TYPES)), {"given": rows}).all()
    assert [(row.id, row.name, row.size) for row in found] == [(row["id"], row["name"], row["size"]) for row in rows]
    assert [row.summary if isinstance(row.summary, dict) else json.loads(row.summary) for row in found] == [row["summary"] for row in rows]


def test_more_ids_than_a_statement_may_have_values(database: Database) -> None:
    with database.read() as connection:
        assert connection.scalars(given_ids(database.dialect), hand_ids(range(100_000))).all() == list(range(100_000))
        assert connection.scalars(given_ids(database.dialect), hand_ids([])).all() == []
