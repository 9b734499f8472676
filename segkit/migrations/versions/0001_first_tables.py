"""The first tables: project, image, run, job, result."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    create_project()
    create_image()
    create_run()
    create_job()
    create_result()


def downgrade() -> None:
    for table in ("result", "job", "run", "image", "project"):
        op.drop_table(table)  # and its indexes


def create_project() -> None:
    op.create_table(
        "project",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        *counters("revision", "images", "unreadable"),
        sa.PrimaryKeyConstraint("id", name="pk_project"),
        sa.UniqueConstraint("name", name="uq_project_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_project_created_at_id", "project", [descending("created_at"), descending("id")])


def create_image() -> None:
    op.create_table(
        "image",
        sa.Column("id", ID, nullable=False),
        link("image", "project"),
        sa.Column("content_hash", sa.String(80), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("format", sa.String(16)),
        sa.Column("axes", sa.String(8)),
        sa.Column("shape", sa.JSON()),
        sa.Column("dtype", sa.String(16)),
        sa.Column("channels", sa.JSON()),
        sa.Column("pixel_size_um", sa.Double()),
        sa.Column("z_step_um", sa.Double()),
        sa.Column("time_step_s", sa.Double()),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_image"),
        sa.UniqueConstraint("project_id", "content_hash", name="uq_image_project_id_content_hash"),
        sqlite_autoincrement=True,
    )
    newest_first: list[str | sa.TextClause] = ["project_id", descending("created_at"), descending("id")]
    op.create_index("ix_image_project_id_created_at_id", "image", newest_first)
    create_partial_index("ix_image_unreadable", "image", newest_first, "error IS NOT NULL")


def create_run() -> None:
    op.create_table(
        "run",
        sa.Column("id", ID, nullable=False),
        link("run", "project"),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("segmenter", sa.String(100), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("selection", sa.JSON(), nullable=False),
        sa.Column("segkit_version", sa.String(40), nullable=False),
        sa.Column("notebook", sa.Text()),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("finished_at", MOMENT),
        *counters("queued", "running", "done", "failed", "cancelled", "objects"),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
        sa.UniqueConstraint("project_id", "fingerprint", name="uq_run_project_id_fingerprint"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_run_project_id_created_at_id", "run", ["project_id", descending("created_at"), descending("id")])
    op.create_index("ix_run_created_at_id", "run", [descending("created_at"), descending("id")])


def create_job() -> None:
    op.create_table(
        "job",
        sa.Column("id", ID, nullable=False),
        link("job", "run"),
        link("job", "image"),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", MOMENT, nullable=False),
        sa.Column("lease_until", MOMENT),
        sa.Column("worker", sa.String(200)),
        sa.Column("error_kind", sa.String(16)),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT),
        sa.Column("finished_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
        sa.UniqueConstraint("run_id", "image_id", name="uq_job_run_id_image_id"),
        sqlite_autoincrement=True,
    )
    create_partial_index("ix_job_queued", "job", [descending("priority"), "id"], "status = 'queued'")
    create_partial_index("ix_job_suspect", "job", [descending("priority"), "id"], "status = 'queued' AND error_kind IS NOT NULL")
    create_partial_index("ix_job_lease", "job", ["lease_until"], "status = 'running'")
    op.create_index("ix_job_run_id_status_id", "job", ["run_id", "status", "id"])
    op.create_index("ix_job_image_id", "job", ["image_id"])


def create_result() -> None:
    op.create_table(
        "result",
        link("result", "job"),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("image_id", ID, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("checksum", sa.String(80), nullable=False),
        sa.Column("objects", sa.BigInteger(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_result"),
    )
    op.create_index("ix_result_image_id_created_at", "result", ["image_id", descending("created_at")])
    op.create_index("ix_result_run_id_job_id", "result", ["run_id", "job_id"])


def link(table: str, other: str) -> sa.Column[int]:
    name = f"fk_{table}_{other}_id_{other}"
    return sa.Column(f"{other}_id", ID, sa.ForeignKey(f"{other}.id", name=name, ondelete="CASCADE"), nullable=False)


def counters(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger(), nullable=False) for name in names]


def descending(column: str) -> sa.TextClause:
    return sa.text(f"{column} DESC")


def create_partial_index(name: str, table: str, columns: list[str | sa.TextClause], condition: str) -> None:
    op.create_index(name, table, columns, postgresql_where=sa.text(condition), sqlite_where=sa.text(condition))
