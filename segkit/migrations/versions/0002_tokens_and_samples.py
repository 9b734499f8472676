"""Tokens of the service, what processes measured over time, and a word to whoever listens when a project changed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)

#: Told in the writer's transaction, so exactly when it commits; `segkit.revisions` listens. SQLite needs none.
TELL = """
CREATE FUNCTION segkit_tell_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify('segkit_revision', 'all');
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM pg_notify('segkit_revision', OLD.id::text);
    ELSE
        PERFORM pg_notify('segkit_revision', NEW.id::text);
    END IF;
    RETURN NULL;
END $$
"""
TRIGGERS = (
    "CREATE TRIGGER segkit_tell_revision AFTER INSERT OR DELETE OR UPDATE OF revision ON project "
    "FOR EACH ROW EXECUTE FUNCTION segkit_tell_revision()",
    "CREATE TRIGGER segkit_tell_truncation AFTER TRUNCATE ON project FOR EACH STATEMENT EXECUTE FUNCTION segkit_tell_revision()",
)


def upgrade() -> None:
    op.create_table(
        "token",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("hash", sa.String(80), nullable=False),
        sa.Column("scope", sa.String(10), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT),
        sa.Column("revoked_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_token"),
        sa.UniqueConstraint("name", name="uq_token_name"),
        sa.UniqueConstraint("hash", name="uq_token_hash"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "sample",
        sa.Column("id", ID, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("window_s", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(200), nullable=False),
        sa.Column("measured", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sample"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_sample_window_s_at", "sample", ["window_s", "at"])
    if op.get_bind().dialect.name == "postgresql":
        for statement in (TELL, *TRIGGERS):
            op.execute(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER segkit_tell_truncation ON project")
        op.execute("DROP TRIGGER segkit_tell_revision ON project")
        op.execute("DROP FUNCTION segkit_tell_revision()")
    op.drop_table("sample")
    op.drop_table("token")
