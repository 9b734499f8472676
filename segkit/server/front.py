"""The first page: what a browser sees that opened the link."""

from __future__ import annotations

import html

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from segkit import __version__
from segkit.errors import ScopeError
from segkit.tokens import Scope

router = APIRouter(include_in_schema=False)

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>segkit</title>
<style>body{{font:16px/1.5 system-ui;max-width:60em;margin:6vh auto;padding:0 1em}}table{{border-collapse:collapse}}
th,td{{text-align:left;padding:.2em 1.2em .2em 0;vertical-align:top}}code{{font-size:.95em}}</style>
<main><h1>segkit {version}</h1>{dashboards}<h2>Routes</h2><p>As <a href="{prefix}/api/openapi.json">OpenAPI</a>.</p>
<table><tr><th>Route<th>What it does</tr>{rows}</table></main></html>"""


@router.get("/", response_class=HTMLResponse)
def show_front(request: Request) -> HTMLResponse:
    """List the dashboards and the routes."""
    prefix = html.escape(request.scope.get("root_path", ""))
    paths = request.app.openapi()["paths"]
    told = [(method.upper(), path, about.get("summary", "")) for path, methods in paths.items() for method, about in methods.items()]
    rows = "".join(f"<tr><td><code>{method} {html.escape(path)}</code><td>{html.escape(what)}</tr>" for method, path, what in told)
    mounted = any(str(getattr(route, "path", "")).startswith("/dashboards") for route in request.app.routes)
    dashboards = f'<p><a href="{prefix}/dashboards/">Dashboards</a></p>' if mounted else ""
    return HTMLResponse(
        PAGE.format(version=__version__, dashboards=dashboards, prefix=prefix, rows=rows), headers={"Cache-Control": "no-cache"}
    )


@router.get("/api/admission/{scope}", status_code=204)
def show_admission(request: Request, scope: Scope) -> Response:
    """Say whether who asks has this scope, for what stands behind the same nginx and has no login of its own (`conf/nginx.conf`).

    Raises
    ------
    ScopeError
        He may only look.
    """
    if scope is Scope.WRITE and request.scope["state"]["scope"] != Scope.WRITE:
        raise ScopeError
    return Response(status_code=204, headers={"Cache-Control": "no-store"})
