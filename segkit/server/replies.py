"""Answers of routes as JSON: the library's frozen records, written by orjson."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from fastapi import Response
from sqlalchemy import Connection

from segkit.kit import Kit

FORM = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def to_json(value: Any) -> bytes:
    """Write records as JSON; moments end in Z, and what is no number is null."""
    return orjson.dumps(value, option=FORM)


def reading(kit: Kit, look: Callable[[Connection], Any]) -> Callable[[], bytes]:
    """Return a function that looks something up in one read transaction and writes it as JSON."""

    def fill() -> bytes:
        with kit.database.read() as connection:
            found = look(connection)
        return to_json(found)

    return fill


def writing(kit: Kit, write: Callable[[Connection], bytes]) -> Callable[[], bytes]:
    """Return a function that has JSON written in one read transaction."""

    def fill() -> bytes:
        with kit.database.read() as connection:
            return write(connection)

    return fill


def reply(value: Any, status: int = 200, **headers: str) -> Response:
    """Answer with records as JSON."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Response(to_json(value), status, named, "application/json")
