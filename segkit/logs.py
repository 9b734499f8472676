"""How processes log, and which request, run and job each line is about.

`conf/logging.toml` says how lines look: text for people, or JSON for machines, chosen by `SEGKIT_LOG_FORMAT`. What `about` names is
on every line that is logged within its block: the server names requests, workers name runs, jobs and attempts, and `under` takes the
names along to a Dask thread. Besides, each worker writes what it did to a file of its own under the home folder, where the lines of
one job are found again.
"""

from __future__ import annotations

import logging
import logging.config
import re
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pythonjsonlogger.orjson import OrjsonFormatter

from segkit.settings import shared_folder

FOLDER = "logs"
MOST_BYTES = 4 * 1024**2
#: Files that nobody wrote to for so long are deleted.
KEPT_DAYS = 30
#: So much of a file's end is searched for a job's lines.
TAIL_BYTES = 512 * 1024

#: Lines on single jobs, which nobody wants on a terminal.
record = logging.getLogger("segkit-record")
record.propagate = False

#: The handler that `conf/logging.toml` makes; a process that has others had its logging set up by somebody else.
OURS = "segkit"
#: Passwords in URLs, and tokens in queries and headers.
SECRETS = re.compile(r"(?<=://)[^/\s:@\"']*:[^/\s@\"']+(?=@)|(?i:(?<=token=)|(?<=bearer ))[^&\s\"'\\]+")
HIDDEN = "********"

_about: ContextVar[Mapping[str, Any]] = ContextVar("segkit-about", default=MappingProxyType({}))


def configure(level: str, form: str) -> None:
    """Have this process log as `conf/logging.toml` says; where somebody else set logging up already, it stays as it is.

    Parameters
    ----------
    level : str
        Least level of segkit's own lines: "DEBUG", "INFO", "WARNING" or "ERROR". All others' are told from WARNING on.
    form : str
        "text" or "json". As JSON, the lines on single jobs are told too.
    """
    if any(handler.name != OURS for handler in logging.root.handlers):
        return
    said = tomllib.loads((shared_folder("conf") / "logging.toml").read_text("utf-8"))
    said["handlers"][OURS]["formatter"] = form
    said["loggers"]["segkit"]["level"] = level
    for part in (*said["filters"].values(), *said["formatters"].values()):
        # Python looks names up as attributes of the package, which a module that was loaded lazily is not yet.
        part["()"] = OURS_BY_NAME.get(part["()"], part["()"])
    logging.config.dictConfig(said)
    record.propagate = form == "json"


class about:
    """Name what the lines that are logged within this block are about, such as `job=7`, besides what the blocks around it name.

    A class, because every request of the service goes through it, and a generator takes three times as long.
    """

    __slots__ = ("_names", "_token")

    def __init__(self, **names: Any) -> None:
        self._names = names

    def __enter__(self) -> None:
        around = _about.get()
        self._token = _about.set({**around, **self._names} if around else self._names)

    def __exit__(self, *exception: object) -> None:
        _about.reset(self._token)


def names() -> Mapping[str, Any]:
    """Return what is named here."""
    return _about.get()


def under(names: Mapping[str, Any], function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function where these are named: on another thread or machine."""
    with about(**names):
        return function(*arguments)


class About(logging.Filter):
    """Puts what is named onto every line; as `about` also in one piece, for text."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every line through."""
        named = _about.get()
        for name, value in named.items():
            record.__dict__.setdefault(name, value)
        record.about = f" [{' '.join(f'{name}={value}' for name, value in named.items())}]" if named else ""
        return True


def redacted(text: str) -> str:
    """Hide passwords and tokens.

    Examples
    --------
    >>> redacted("postgresql://me:hunter2@db/lab GET /?token=abc&page=2 Authorization: Bearer xyz")
    'postgresql://********@db/lab GET /?token=********&page=2 Authorization: Bearer ********'
    """
    return SECRETS.sub(HIDDEN, text)


class Text(logging.Formatter):
    """A line for people."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Write a line, without secrets."""
        return redacted(super().format(record))


class Json(OrjsonFormatter):
    """A line of JSON, with a field for each thing that is named."""

    def serialize_log_record(self, log_data: dict[str, Any]) -> str:
        """Write a line, without secrets."""
        log_data.pop("about", None)
        return redacted(super().serialize_log_record(log_data))


def path_of(home: str, worker: str) -> Path | None:
    """Return the file of a worker's lines; None where the home folder is a URL."""
    if "://" in home:
        return None
    return Path(home).expanduser() / FOLDER / f"{re.sub(r'[^A-Za-z0-9._-]', '_', worker)}.log"


class Lines(RotatingFileHandler):
    """A file of lines; one that cannot be written is lost, and nothing else."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: Python's own way is a stack trace on the screen for every line."""


@contextmanager
def kept(home: str, worker: str) -> Iterator[None]:
    """Keep what is logged in this block, single jobs included. A disk that cannot be written to stops no work."""
    path = path_of(home, worker)
    handler = None if path is None else opened(path)
    if handler is None:
        yield
        return
    loggers = (record, logging.getLogger("segkit"))
    record.setLevel(logging.INFO)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        with suppress(OSError):  # a full disk takes no last lines
            handler.close()


def opened(path: Path) -> logging.Handler | None:
    """Open a file to log to, and delete those of workers long gone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        handler = Lines(path, maxBytes=MOST_BYTES, backupCount=1, encoding="utf-8", delay=True)
    except OSError:
        return None
    handler.setFormatter(Text("%(asctime)sZ %(levelname)s %(message)s"))
    return handler


def sweep(folder: Path) -> None:
    """Delete files that nobody wrote to for a long time."""
    oldest = time.time() - KEPT_DAYS * 86400
    for path in folder.glob("*.log*"):
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()


def tail(home: str, worker: str, job_id: int, lines: int) -> list[str]:
    """Return the last lines that a worker logged about a job, in order; none when it kept no log here."""
    path = path_of(home, worker)
    if path is None or not path.is_file():
        return []
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    about = re.compile(rf"\bjob {job_id}\b")
    return [line for line in text.splitlines() if about.search(line)][-lines:]


#: What `conf/logging.toml` names.
OURS_BY_NAME: dict[str, Any] = {f"segkit.logs.{each.__name__}": each for each in (About, Text, Json)}
