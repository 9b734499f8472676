"""Commands of the service: `serve`, and `token create|list|revoke`."""

from __future__ import annotations

import sys
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import lazy_loader
import typer

from segkit.cli.terminal import Home, Json, Yes, ask, log_as, opened, say
from segkit.tables import put_json, put_table

# Loaded when a command uses them, so that `segkit --help` is instant.
server = lazy_loader.load("segkit.server.serving", suppress_warning=True)
settings_module = lazy_loader.load("segkit.settings", suppress_warning=True)

commands = typer.Typer()
token = typer.Typer(help="Make, list and revoke the tokens that let others use the service.", no_args_is_help=True)
commands.add_typer(token, name="token")


class Scope(StrEnum):
    """What a token allows."""

    READ = "read"
    WRITE = "write"


@commands.command()
def serve(
    home: Home = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default SEGKIT_SERVER_HOST or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default SEGKIT_SERVER_PORT or 8765, and a free one when it is taken.")] = None,
    root_path: Annotated[str | None, typer.Option(help="Path prefix under which a proxy shows the service.")] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in this desktop's browser.")] = False,
    work: Annotated[bool | None, typer.Option(help="Also work jobs off; default: with the embedded database, not with PostgreSQL.")] = None,
) -> None:
    """Serve projects, images, the queue and results over HTTP, to this machine unless told otherwise. Ctrl-C ends it.

    Any other address than this machine's own asks for a token: SEGKIT_TOKEN, one of `segkit token create`, or one that is shown
    in the link.
    """
    chosen = settings_module.load(home=home, server_host=host, server_port=port, server_root_path=root_path)
    log_as(chosen)
    server.serve(chosen, settings_module.hub(), lambda text: print(text, flush=True), show=show, work=work)


@token.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[Scope, typer.Option(help="read: look at everything; write: also register, queue, cancel and delete.")] = Scope.READ,
    days: Annotated[float | None, typer.Option(min=0.001, max=36500, help="Days that it is good for; default: for ever.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make a token. It is printed now and never again: only its hash is kept."""
    with opened(home) as kit:
        made, secret = kit.new_token(name, scope, None if days is None else timedelta(days=days))
    if as_json:
        put_json(vars(made) | {"token": secret})
        return
    print(secret)
    sys.stderr.write(f'This token may {made.scope}. Keep it now, it is not shown again. Send it as "Authorization: Bearer TOKEN".\n')


@token.command("list")
def list_tokens(home: Home = None, as_json: Json = False) -> None:
    """List the tokens, without the tokens themselves."""
    with opened(home) as kit:
        found = kit.tokens()
    if as_json:
        put_json([vars(each) for each in found])
        return
    shown = [(each.name, each.scope, each.created_at, each.expires_at, each.revoked_at) for each in found]
    put_table("Tokens", ["name", "scope", "made", "expires", "revoked"], [list(row) for row in shown])


@token.command("revoke")
def revoke(name: str, home: Home = None, yes: Yes = False, as_json: Json = False) -> None:
    """Make a token good no more, within two seconds."""
    ask(f'Revoke the token "{name}"? Whoever uses it is locked out.', yes)
    with opened(home) as kit:
        revoked = kit.revoke_token(name)
    say(as_json, f'The token "{revoked.name}" is revoked.', name=revoked.name, revoked_at=revoked.revoked_at)
