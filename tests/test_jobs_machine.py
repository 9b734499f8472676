"""hypothesis plays workers and people against the queue, in any order it can think of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from queue_machine import Queue
from sqlalchemy import event, text

from segkit.database import Database, open_database
from segkit.schema import Base
from segkit.settings import Settings

#: Examples, and steps of each.
PLAYS = {"sqlite": (25, 25), "postgresql": (8, 20)}


def empty(database: Database) -> None:
    with database.write() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(text(f"DELETE FROM {table.name}"))


@pytest.mark.parametrize("dialect", PLAYS)
def test_whatever_happens_each_job_has_one_result_and_counters_are_right(dialect: str, make_settings: Callable[..., Settings]) -> None:
    examples, steps = PLAYS[dialect]
    with open_database(make_settings(dialect)) as opened:
        if dialect == "sqlite":  # no test cuts the power, and each commit is 10 times faster
            event.listen(opened.engine, "connect", lambda driver, _: driver.execute("PRAGMA synchronous=OFF"))

        class OnThisDatabase(Queue):
            database = opened

            def __init__(self) -> None:
                super().__init__()
                empty(opened)

        run_state_machine_as_test(
            OnThisDatabase,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                derandomize=False,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
