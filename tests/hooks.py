"""A webhook and a mailbox: real HTTP and SMTP servers on this machine that keep what they are sent."""

from __future__ import annotations

import email
import email.policy
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hook:
    """What came in, and what to answer."""

    url: str = ""
    answer: int = 200
    received: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def webhook(answer: int = 200) -> Iterator[Hook]:
    """Serve a webhook while this block lasts."""
    hook = Hook(answer=answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hook.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(hook.answer)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, serving(server):
        hook.url = f"http://127.0.0.1:{server.server_port}/hook"
        yield hook


@dataclass
class Mailbox:
    """The messages that came in, and where they are sent to."""

    url: str = ""
    received: list[EmailMessage] = field(default_factory=list)


@contextmanager
def mailbox() -> Iterator[Mailbox]:
    """Take mail by SMTP, without encryption or login, while this block lasts."""
    box = Mailbox()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say("220 ready")
            while line := self.rfile.readline():
                command = line.split()[0].upper() if line.strip() else b""
                if command == b"DATA":
                    self.say("354 go on")
                    text = b"".join(iter(self.rfile.readline, b".\r\n"))
                    box.received.append(email.message_from_bytes(text, policy=email.policy.default))  # type: ignore[arg-type]
                self.say("221 good-bye" if command == b"QUIT" else "250 done")

        def say(self, words: str) -> None:
            self.wfile.write(words.encode() + b"\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server, serving(server):
        box.url = f"mailto://127.0.0.1:{server.server_address[1]}?from=segkit@example.org&to=lab@example.org"
        yield box


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Let a server answer while this block lasts."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
