"""Runs that are going are found without looking at those that ended, however many there are by now."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ACTIVE = sa.text("finished_at IS NULL")


def upgrade() -> None:
    op.create_index("ix_run_active", "run", [sa.text("priority DESC"), "id"], postgresql_where=ACTIVE, sqlite_where=ACTIVE)


def downgrade() -> None:
    op.drop_index("ix_run_active", "run")
