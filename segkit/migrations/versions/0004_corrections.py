"""Corrections of results by hand, each a version of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "correction",
        sa.Column("id", ID, nullable=False),
        link("run"),
        link("image"),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("changes", sa.JSON(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("checksum", sa.String(80), nullable=False),
        sa.Column("objects", sa.BigInteger(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_correction"),
        sa.UniqueConstraint("run_id", "image_id", "version", name="uq_correction_run_id_image_id_version"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_correction_image_id", "correction", ["image_id"])


def downgrade() -> None:
    op.drop_table("correction")


def link(other: str) -> sa.Column[int]:
    name = f"fk_correction_{other}_id_{other}"
    return sa.Column(f"{other}_id", ID, sa.ForeignKey(f"{other}.id", name=name, ondelete="CASCADE"), nullable=False)
