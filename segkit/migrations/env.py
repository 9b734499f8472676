"""What Alembic runs to change or compare the tables, on the connection that `revise.configuration` was given."""

from __future__ import annotations

from alembic import context

from segkit.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by rebuilding it
    transactional_ddl=True,  # the caller's transaction holds all steps, on SQLite too
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
