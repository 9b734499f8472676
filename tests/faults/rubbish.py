"""A server that speaks rubbish where Redis is expected: one kind of it each."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: What it answers to everything.
KINDS: dict[str, bytes] = {
    "nothing": b"",
    "ok to everything": b"+OK\r\n",
    "empty lines": b"\r\n\r\n",
    "zeros": bytes(100) + b"\r\n",
    "noise": random.Random(7).randbytes(400),
    "a web page": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a number that is none": b":abc\r\n",
    "a length that is none": b"$xyz\r\nhello\r\n",
    "a negative length": b"$-5\r\n",
    "more than it sends": b"$1073741824\r\nabc",
    "a list without end": b"*99999999\r\n",
    "a list of no length": b"*q\r\n",
    "lists in lists": b"*1\r\n" * 5000,
    "a map of no length": b"%q\r\n",
    "a map with a list for a key": b"%1\r\n*1\r\n+a\r\n+b\r\n",
    "a set of lists": b"~1\r\n*1\r\n+a\r\n",
    "a float that is none": b",zzz\r\n",
    "a truth that is none": b"#q\r\n",
    "news that nobody asked for": b">3\r\n+message\r\n+a\r\n+b\r\n",
    "loading for ever": b"-LOADING Redis is loading the dataset in memory\r\n",
    "an error in no known letters": b"-\xff\xfe\r\n",
    "another's value": b"$24\r\n012345678901another text\r\n",
}


@contextmanager
def speaking(reply: bytes) -> Iterator[str]:
    """Listen, and give this reply to whatever comes; yields the Redis URL of it."""
    listening = socket.create_server(("127.0.0.1", 0))
    talking: list[socket.socket] = []

    def talk(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while connection.recv(65536):
                connection.sendall(reply)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                talking.append(connection)
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}/0"
    finally:
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)
        for connection in talking:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
