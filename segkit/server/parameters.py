"""What requests may hold: numbers, pages and text, each checked before anything else sees it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from segkit.kit import Kit
from segkit.pages import DEEPEST_OFFSET, MOST_ROWS

#: The largest whole number that every reader of JSON keeps exact.
LARGEST_ID = 2**53 - 1
#: No zero byte, told in OpenAPI too.
PATTERN = r"^[^\x00]*$"
LONGEST_CURSOR = 200
LONGEST_TEXT = 4096


def digits(value: object) -> object:
    """Refuse what Python would take for a number and nobody else would, such as "1_0" or "１"."""
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,30}", value):
        raise ValueError("It is not a whole number")
    return value


def whole(value: object) -> object:
    """Refuse what JSON does not take for a number; 2.0 is a whole one there."""
    if isinstance(value, bool | str):
        raise ValueError("It is not a whole number")
    return value


def clean(text: str) -> str:
    """Refuse text that no database takes: zero bytes, and halves of surrogate pairs."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("It holds a zero byte, or is not valid Unicode")
    return text


def clean_json(value: Any) -> Any:
    """Refuse such text anywhere in a JSON value."""
    if isinstance(value, str):
        clean(value)
    elif isinstance(value, dict):
        for name, each in value.items():
            clean(name)
            clean_json(each)
    elif isinstance(value, list):
        for each in value:
            clean_json(each)
    return value


Digits = BeforeValidator(digits)
#: Limits come before the check of digits, or OpenAPI would not tell them.
AnyId = Annotated[int, Field(ge=1, le=LARGEST_ID), Digits]
Rows = Annotated[int, Field(ge=1, le=MOST_ROWS), Digits]
Skipped = Annotated[int, Field(ge=0, le=DEEPEST_OFFSET), Digits]
Number = Annotated[AnyId, Path()]
Limit = Annotated[Rows, Query(description="Rows on the page.")]
Offset = Annotated[Skipped | None, Query(description="Rows to skip; for small depths.")]
CleanText = Annotated[str, Field(pattern=PATTERN), AfterValidator(clean)]
After = Annotated[CleanText | None, Query(max_length=LONGEST_CURSOR, description="The `next` of the page before.")]
Whole = BeforeValidator(whole)
Id = Annotated[int, Field(ge=1, le=LARGEST_ID), Whole]
Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT, pattern=PATTERN), AfterValidator(clean)]
CLEAN = [{"type": "string", "pattern": PATTERN}, *({"type": kind} for kind in ("number", "boolean", "null"))]
#: As OpenAPI tells it: values without zero bytes, or lists of them. Other JSON is refused by what takes it.
CLEAN_JSON = {
    "type": "object",
    "propertyNames": {"pattern": PATTERN},
    "additionalProperties": {"anyOf": [*CLEAN, {"type": "array", "items": {"anyOf": CLEAN}}]},
}
Json = Annotated[dict[str, Any], AfterValidator(clean_json), WithJsonSchema(CLEAN_JSON)]


@dataclass(frozen=True)
class Paging:
    """Which page of a list is asked for."""

    limit: int
    after: str | None
    offset: int | None

    @property
    def place(self) -> dict[str, Any]:
        """The page as arguments of a list."""
        return {"limit": self.limit, "after": self.after, "offset": self.offset}


async def paging(limit: Limit = 100, after: After = None, offset: Offset = None) -> Paging:
    """Read the page from a request. Async, so that no thread is waited for."""
    return Paging(limit, after, offset)


async def kit_of(request: Request) -> Kit:
    """Return the open kit of the app. Async, so that no thread is waited for."""
    kit: Kit = request.app.state.kit
    return kit


Paged = Annotated[Paging, Depends(paging)]
Opened = Annotated[Kit, Depends(kit_of)]
