"""Tokens: shown once, kept as a hash, good until they expire or are revoked."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from sqlalchemy import text

from segkit import tokens
from segkit.database import Database
from segkit.errors import TokenNameError, UnknownTokenError
from segkit.tokens import Scope


def test_a_token_is_known_by_itself_alone(database: Database) -> None:
    with database.write() as connection:
        made, secret = tokens.create(connection, "  reader ", Scope.READ)
        other, _ = tokens.create(connection, "writer", Scope.WRITE)
    with database.read() as connection:
        assert tokens.known(connection, secret) == made
        assert (made.name, made.scope, made.expires_at, made.revoked_at) == ("reader", Scope.READ, None, None)
        assert [each.name for each in tokens.tokens(connection)] == ["writer", "reader"]
        for wrong in ("", secret[:-1], secret + "x", made.name, tokens.hash_of(secret), "\0", "ü\ud800", "x" * 100_000):
            assert tokens.known(connection, wrong) is None
    assert other.scope is Scope.WRITE


def test_the_token_itself_is_kept_nowhere(database: Database) -> None:
    with database.write() as connection:
        _, secret = tokens.create(connection, "reader")
    with database.read() as connection:
        kept = connection.execute(text("SELECT * FROM token")).one()
    assert secret not in str(kept)
    assert len(secret) > 40


def test_a_revoked_token_is_good_no_more(database: Database) -> None:
    with database.write() as connection:
        _, secret = tokens.create(connection, "reader")
        first = tokens.revoke(connection, "reader")
        assert tokens.revoke(connection, " reader ").revoked_at == first.revoked_at is not None
        assert tokens.known(connection, secret) is None
        with pytest.raises(UnknownTokenError):
            tokens.revoke(connection, "nobody")
        with pytest.raises(UnknownTokenError):
            tokens.revoke(connection, "no\0body")


def test_a_token_expires(database: Database) -> None:
    with database.write() as connection:
        _, short = tokens.create(connection, "short", lifetime=timedelta(seconds=0.2))
        _, long = tokens.create(connection, "long", lifetime=timedelta(hours=1))
    with database.read() as connection:
        assert tokens.known(connection, short) is not None
    time.sleep(0.3)
    with database.read() as connection:
        assert tokens.known(connection, short) is None
        assert tokens.known(connection, long) is not None


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\0b", "x" * 201])
def test_a_name_that_cannot_be_used_is_refused(database: Database, name: str) -> None:
    with database.write() as connection, pytest.raises(TokenNameError):
        tokens.create(connection, name)


def test_a_name_is_given_once_and_the_transaction_goes_on(database: Database) -> None:
    with database.write() as connection:
        tokens.create(connection, "reader")
        with pytest.raises(TokenNameError, match="already"):
            tokens.create(connection, "reader")
        tokens.create(connection, "other")
    with database.read() as connection:
        assert len(tokens.tokens(connection)) == 2
