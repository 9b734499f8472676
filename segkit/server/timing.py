"""Which route a request came to: noted where whoever times it finds it."""

from __future__ import annotations

from starlette.types import Scope

NO_ROUTE = "(no route)"
#: Where the route is noted, in the part of a request's scope that all copies of it share.
NOTE = "segkit_route"


def note_route(scope: Scope) -> None:
    """Note which route a request came to, for who sees only a copy of its scope."""
    if scope["type"] == "http" and (route := scope.get("route")) is not None:
        scope.setdefault("state", {})[NOTE] = route.path
