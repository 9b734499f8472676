"""Problem details (RFC 9457): every fault of a request as a status, a title, and a sentence that says what to do."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Scope

from segkit import errors

MEDIA_TYPE = "application/problem+json"
LONGEST_INPUT = 60

log = logging.getLogger(__name__)

#: The nearest class in an error's line of ancestors decides.
STATUS: dict[type[BaseException], int] = {
    # not there
    errors.UnknownProjectError: 404,
    errors.UnknownImageError: 404,
    errors.UnknownRunError: 404,
    errors.UnknownJobError: 404,
    errors.UnknownSegmenterError: 404,
    errors.UnknownExportError: 404,
    errors.UnknownTokenError: 404,
    errors.UnknownRegistrationError: 404,
    errors.UnknownFileError: 404,
    errors.UnknownStatementError: 404,
    errors.NoResultError: 404,
    errors.ImageMissingError: 404,
    # not allowed
    errors.NotAdmittedError: 401,
    errors.ScopeError: 403,
    errors.ForeignRequestError: 403,
    errors.LoginError: 403,
    errors.FolderNotAllowedError: 403,
    errors.TooManyFailuresError: 429,
    # not as things stand
    errors.ProjectExistsError: 409,
    errors.ConfirmationRequired: 409,
    errors.OutputExistsError: 409,
    errors.LeaseLost: 409,
    errors.ImageChangedError: 409,
    errors.ArchiveChangedError: 409,
    errors.CorrectionConflictError: 409,
    errors.PreconditionError: 412,
    errors.UploadTooLargeError: 413,
    errors.ImageReadError: 415,
    errors.RangeError: 416,
    # not here
    errors.MissingExtraError: 501,
    errors.TooBusyError: 503,
    errors.DatabaseError: 503,
    errors.ClusterError: 503,
    errors.HubError: 503,
    errors.NotWritableError: 503,
    errors.DiskFullError: 507,
    errors.ResultCorruptError: 500,
    # whatever else a request asks for that cannot be
    ValueError: 400,
    LookupError: 404,
    TypeError: 400,
    PermissionError: 403,
    TimeoutError: 503,
}
#: Wait so many seconds before trying again.
RETRY_SECONDS = {429: 60, 503: 5}

SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "What went wrong, and what to do (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "description": "Names the kind of problem, for programs."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What to do, for people."},
        "instance": {"type": "string", "description": "The path that was asked for."},
        "errors": {
            "type": "array",
            "description": "Each part of the request that cannot be used.",
            "items": {
                "type": "object",
                "required": ["where", "detail"],
                "properties": {"where": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}


def told(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe these answers of a route in OpenAPI."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def status_of(error: BaseException) -> int:
    """Return the HTTP status of an error."""
    kinds = [kind for kind in type(error).__mro__ if kind is not errors.SegkitError]
    return next((STATUS[kind] for kind in kinds if kind in STATUS), 500)


def words_of(kind: type[BaseException]) -> str:
    """Write a class's name as words.

    Examples
    --------
    >>> words_of(errors.UnknownProjectError)
    'Unknown project'
    """
    name = re.sub(r"Error$", "", kind.__name__)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()


def problem(
    scope: Scope, status: int, title: str, detail: str, parts: Iterable[tuple[str, str]] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """Make the answer that tells a problem."""
    kind = re.sub(r"\W+", "-", title.lower())
    document: dict[str, Any] = {"type": f"urn:segkit:problem:{kind}", "title": title, "status": status, "detail": sayable(detail)}
    document["instance"] = sayable(scope["path"])
    listed = [{"where": sayable(where), "detail": sayable(what)} for where, what in parts]
    given = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})}  # also where nothing else adds it: 500
    if status in RETRY_SECONDS:
        given.setdefault("Retry-After", str(RETRY_SECONDS[status]))
    body = orjson.dumps(document | ({"errors": listed} if listed else {}))
    return Response(body, status, given, MEDIA_TYPE)


def sayable(text: str) -> str:
    """Replace what JSON cannot carry, such as half of a surrogate pair that a request contained."""
    return text.encode("utf-8", "backslashreplace").decode()


def problem_of(scope: Scope, error: errors.SegkitError, status: int | None = None) -> Response:
    """Make the answer that tells an error of segkit's."""
    headers = {"WWW-Authenticate": 'Bearer realm="segkit"'} if isinstance(error, errors.NotAdmittedError) else None
    return problem(scope, status or status_of(error), words_of(type(error)), str(error), headers=headers)


def install(app: FastAPI) -> None:
    """Have an app answer every fault as a problem."""
    app.add_exception_handler(errors.SegkitError, _segkit_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(Exception, _unforeseen)


def _segkit_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.SegkitError)
    if status_of(error) >= 500:
        log.warning("%s %s: %s", request.method, request.url.path, error)
    return problem_of(request.scope, error)


def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    parts = list(_parts(error))
    return problem(request.scope, 422, "Invalid request", "; ".join(f"{where}: {what}" for where, what in parts), parts)


def _parts(error: RequestValidationError) -> Iterator[tuple[str, str]]:
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"]) or "request"
        given = fault.get("input")
        shown = f" It was {str(given)[:LONGEST_INPUT]!r}." if isinstance(given, str | int | float) else ""
        yield where, f"{fault['msg']}.{shown}"


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    detail, title = str(error.detail), HTTPStatus(error.status_code).phrase
    if error.status_code == 404:
        detail = f"There is nothing at {request.url.path}. The routes are listed at {request.scope.get('root_path', '')}/api/openapi.json."
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods_at(request)))
        detail = f"{request.method} does nothing at {request.url.path}. It takes {headers['Allow']}."
    return problem(request.scope, error.status_code, title, detail, headers=headers)


def _methods_at(request: Request) -> set[str]:
    """Every method that the routes of this path take; the router itself names those of the first alone."""
    return {
        method
        for route in request.app.state.routes
        if route.matches({**request.scope, "method": "GET"})[0] != Match.NONE
        for method in getattr(route, "methods", None) or ()
    }


def _client_gone(request: Request, error: Exception) -> Response:
    return problem(request.scope, 400, "Client gone", "The request ended before it was whole. Send it again.")


def _unforeseen(request: Request, error: Exception) -> Response:
    return unforeseen(request.scope, error)


def unforeseen(scope: Scope, error: Exception) -> Response:
    """Answer what should not happen."""
    detail = f"This should not happen: {type(error).__name__}. Please report it, with what the service's log says."
    return problem(scope, 500, "Unforeseen fault", detail)
