"""Tokens that let people and programs use the service from outside. A token is shown once, when it is made; its hash alone is kept.

A token is 256 random bits, so one plain hash of it cannot be turned back; a slow one would only make each request slow.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import cast

from sqlalchemy import Connection, Row, Select, Table, or_, select, update
from sqlalchemy import insert as into
from sqlalchemy.exc import IntegrityError

from segkit.database import now, now_sql
from segkit.errors import TokenNameError, UnknownTokenError
from segkit.schema import Token as TokenRow

table = cast(Table, TokenRow.__table__)
PREFIX = "segkit_"
RANDOM_BYTES = 32
LONGEST_NAME = 200
LONGEST_TOKEN = 500


class Scope(StrEnum):
    """What a token allows."""

    READ = "read"  #: look at everything
    WRITE = "write"  #: also register, queue, cancel and delete


@dataclass(frozen=True)
class Token:
    """What is known of a token; the token itself is kept nowhere."""

    id: int
    name: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None  #: None: never
    revoked_at: datetime | None


COLUMNS = tuple(table.c[name] for name in Token.__dataclass_fields__)


def new_token() -> str:
    """Make a token that nobody can guess."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def hash_of(token: str) -> str:
    """Return what is kept of a token.

    Examples
    --------
    >>> hash_of("a")[:20]
    'sha256:ca978112ca1bb'
    """
    return f"sha256:{hashlib.sha256(token.encode('utf-8', 'surrogatepass')).hexdigest()}"


def create(connection: Connection, name: str, scope: Scope = Scope.READ, lifetime: timedelta | None = None) -> tuple[Token, str]:
    """Make a token.

    Parameters
    ----------
    connection
        In a write transaction.
    name : str
        What it is for; no two have the same.
    scope : Scope
        What it allows.
    lifetime : timedelta, optional
        When it stops to be good; default never.

    Returns
    -------
    Token, str
        What is kept, and the token itself, which nobody can look up later.

    Raises
    ------
    TokenNameError
        The name cannot be used, or there is one of it already.
    """
    token = new_token()
    expires_at = None if lifetime is None else now(connection) + lifetime
    values = {"name": checked_name(name), "hash": hash_of(token), "scope": Scope(scope), "created_at": now_sql(), "expires_at": expires_at}
    try:
        with connection.begin_nested():
            row = connection.execute(into(table).values(values).returning(*COLUMNS)).one()
    except IntegrityError:
        raise TokenNameError(f'There is a token "{name.strip()}" already, or was one. Choose another name.') from None
    return token_of(row), token


def checked_name(name: str) -> str:
    """Return a name without blanks around it.

    Raises
    ------
    TokenNameError
        It cannot be a token's name.
    """
    name = name.strip()
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise TokenNameError
    return name


def known(connection: Connection, token: str) -> Token | None:
    """Find a token that is good now; None when there is no such token, or it was revoked or has expired."""
    if len(token) > LONGEST_TOKEN:
        return None
    good = table.c.revoked_at.is_(None) & or_(table.c.expires_at.is_(None), table.c.expires_at > now_sql())
    row = connection.execute(all_tokens().where(table.c.hash == hash_of(token), good)).one_or_none()
    return None if row is None else token_of(row)


def tokens(connection: Connection) -> list[Token]:
    """List all tokens, also those that are good no more, newest first."""
    return [token_of(row) for row in connection.execute(all_tokens().order_by(table.c.id.desc()))]


def revoke(connection: Connection, name: str) -> Token:
    """Make a token good no more. Revoking twice does nothing twice.

    Raises
    ------
    UnknownTokenError
        There is none of this name.
    """
    name = name.strip() if name.isprintable() else ""
    connection.execute(update(table).where(table.c.name == name, table.c.revoked_at.is_(None)).values(revoked_at=now_sql()))
    row = connection.execute(all_tokens().where(table.c.name == name)).one_or_none()
    if row is None:
        raise UnknownTokenError
    return token_of(row)


def all_tokens() -> Select[tuple[object, ...]]:
    """Select tokens without their hashes."""
    return select(*COLUMNS)


def token_of(row: Row[tuple[object, ...]]) -> Token:
    """Turn a row into a record."""
    fields = dict(row._mapping)
    return Token(**fields | {"scope": Scope(fields["scope"])})
