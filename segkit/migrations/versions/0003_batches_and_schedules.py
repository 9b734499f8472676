"""Batches of notebooks, and schedules that queue them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    create_schedule()
    create_batch()


def downgrade() -> None:
    op.drop_table("batch")
    op.drop_table("schedule")


def create_schedule() -> None:
    op.create_table(
        "schedule",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("cron", sa.String(200), nullable=False),
        sa.Column("zone", sa.String(100), nullable=False),
        *what_is_run(),
        sa.Column("from_file", sa.Boolean(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("next_at", MOMENT),
        sa.Column("skipped_at", MOMENT),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_schedule"),
        sa.UniqueConstraint("name", name="uq_schedule_name"),
        sqlite_autoincrement=True,
    )
    create_partial_index("ix_schedule_next_at", "schedule", ["next_at"], "next_at IS NOT NULL")


def create_batch() -> None:
    op.create_table(
        "batch",
        sa.Column("id", ID, nullable=False),
        *what_is_run(),
        sa.Column("source", sa.Text()),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", MOMENT, nullable=False),
        sa.Column("lease_until", MOMENT),
        sa.Column("worker", sa.String(200)),
        sa.Column("cells", sa.Integer(), nullable=False),
        sa.Column("cell", sa.Integer(), nullable=False),
        sa.Column("failed_cell", sa.Integer()),
        sa.Column("error_kind", sa.String(16)),
        sa.Column("error", sa.Text()),
        sa.Column("schedule_id", ID, sa.ForeignKey("schedule.id", name="fk_batch_schedule_id_schedule", ondelete="SET NULL")),
        sa.Column("tick", MOMENT),
        sa.Column("notice", sa.String(10)),
        sa.Column("notice_attempt", sa.Integer(), nullable=False),
        sa.Column("notice_at", MOMENT),
        sa.Column("notice_error", sa.Text()),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT),
        sa.Column("finished_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_batch"),
        sa.UniqueConstraint("schedule_id", "tick", name="uq_batch_schedule_id_tick"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_batch_created_at_id", "batch", [sa.text("created_at DESC"), sa.text("id DESC")])
    create_partial_index("ix_batch_queued", "batch", [sa.text("priority DESC"), "id"], "status = 'queued'")
    create_partial_index("ix_batch_lease", "batch", ["lease_until"], "status = 'running'")
    create_partial_index("ix_batch_notice", "batch", ["notice_at"], "notice = 'due'")


def what_is_run() -> list[sa.Column[object]]:
    return [
        sa.Column("notebook", sa.Text(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("kernel", sa.String(200)),
        sa.Column("time_limit_s", sa.Double()),
        sa.Column("notify_on", sa.String(10)),
        sa.Column("notify", sa.JSON(), nullable=False),
    ]


def create_partial_index(name: str, table: str, columns: list[str | sa.TextClause], condition: str) -> None:
    op.create_index(name, table, columns, postgresql_where=sa.text(condition), sqlite_where=sa.text(condition))
