"""What a service refuses, as the errors that the library itself raises: by the kind of the problem, with its words."""

from __future__ import annotations

from typing import Any, ClassVar

import httpx
import orjson

from segkit import errors
from segkit.errors import (
    NotAdmittedError,
    NotAServiceError,
    NotOverHttpError,
    RequestError,
    ScopeError,
    SegkitError,
    ServiceFaultError,
    ServiceUnreachableError,
    TooManyFailuresError,
    with_message,
)

#: Every error class by the title that a problem of it has, "Unknown project" for one, written without blanks.
KINDS: dict[str, type[SegkitError]] = {
    name.removesuffix("Error").lower(): kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, SegkitError) and kind is not SegkitError
}
#: What a status means where no problem says more.
BY_STATUS: dict[int, type[SegkitError]] = {
    401: NotAdmittedError,
    403: NotAdmittedError,
    404: NotAServiceError,
    405: NotAServiceError,
    429: TooManyFailuresError,
    502: ServiceUnreachableError,
    503: ServiceUnreachableError,
    504: ServiceUnreachableError,
}


def fault_of(answer: httpx.Response, url: str) -> SegkitError:
    """Make the error of an answer, which was read, that is no success.

    Parameters
    ----------
    answer : httpx.Response
        With a problem (RFC 9457) in it, or whatever stands between sends.
    url : str
        The service's address, for who has to open it with a token.
    """
    problem = problem_in(answer)
    status = answer.status_code
    kind = named(problem.get("title")) or kind_of(status)
    words = [str(problem.get("detail") or with_default(kind, answer)), *advice(kind, answer, url)]
    return with_message(kind, " ".join(words))


def kind_of(status: int) -> type[SegkitError]:
    """Return the error that a status alone means."""
    if 300 <= status < 400:
        return NotAdmittedError
    return BY_STATUS.get(status) or (ServiceFaultError if status >= 500 else RequestError)


def told_as(title: str | None, message: str | None) -> SegkitError:
    """Make the error of something that went wrong in the background."""
    return with_message(named(title) or ServiceFaultError, message or str(ServiceFaultError()))


def named(title: object) -> type[SegkitError] | None:
    """Return the error class that a problem's title names.

    Examples
    --------
    >>> named("Unknown project").__name__
    'UnknownProjectError'
    """
    return KINDS.get(str(title).replace(" ", "").lower())


def with_default(kind: type[SegkitError], answer: httpx.Response) -> str:
    """Say what happened where the answer does not."""
    return (
        f"{answer.request.url.path} was answered with {answer.status_code} {answer.reason_phrase}. {' '.join((kind.__doc__ or '').split())}"
    )


def advice(kind: type[SegkitError], answer: httpx.Response, url: str) -> list[str]:
    """Say what a script can do about who may in."""
    if kind is NotAdmittedError:
        return [f'In a script: segkit.open("{url}", token="..."), or set SEGKIT_TOKEN.']
    if kind is ScopeError:
        return ["Then open the service with that one."]
    seconds = answer.headers.get("retry-after", "")
    return [f"The service asks to wait {seconds} s."] if seconds.isdigit() and answer.status_code in (429, 503) else []


def problem_in(answer: httpx.Response) -> dict[str, Any]:
    """Read the problem in an answer; empty when there is none."""
    try:
        document = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


class OnlyThere:
    """Says of a class what its counterpart in the library does that cannot be done over HTTP, and what to do instead."""

    only_there: ClassVar[dict[str, str]] = {}

    def __getattr__(self, name: str) -> Any:
        instead = type(self).only_there.get(name)
        if instead is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        raise NotOverHttpError(f"`{name}` cannot be done over HTTP. {instead}")
