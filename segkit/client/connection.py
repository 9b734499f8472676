"""The connection to a service: requests that are asked again where that does no harm, answers as records, and every fault in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import orjson
from pydantic import TypeAdapter, ValidationError

from segkit import __version__
from segkit.client.faults import fault_of
from segkit.errors import InvalidParameterError, NotAdmittedError, NotAServiceError, ServiceUnreachableError
from segkit.files import faults_in_words
from segkit.pages import MOST_ROWS, Page, check_page

Record = TypeVar("Record")
#: Seconds before each further attempt.
PAUSES = (0.1, 0.4, 1.5)
LONGEST_PAUSE = 5.0
FIRST_LOOK, LATER_LOOKS = 0.02, 0.5
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 120.0
#: The service, or a proxy before it, cannot answer now.
NOT_NOW = (502, 503, 504)
#: The request did not reach anybody, so it may be made again whatever it asks for.
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
REPEATABLE = ("GET", "HEAD")


class Connection:
    """A connection to one service, for any number of threads.

    Parameters
    ----------
    url : str
        Address of the service, with the path under which a proxy shows it; a link with `?token=` in it is taken too.
    token : str, optional
        Lets in; without, only a service of this machine does.
    timeout : float
        Seconds that an answer may take to begin, or stand still.

    Raises
    ------
    NotAServiceError, NotAdmittedError
        The address or the token cannot be one.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = ANSWER_SECONDS) -> None:
        address = checked_address(url)
        token = token or address.params.get("token")
        self.url = str(address.copy_with(query=None, fragment=None)).rstrip("/")
        headers = {"User-Agent": f"segkit/{__version__}", "Accept": "application/json, */*;q=0.9"}
        if token is not None:
            headers["Authorization"] = f"Bearer {checked_token(token)}"
        limits = httpx.Timeout(timeout, connect=CONNECT_SECONDS)
        # A proxy of the environment cannot reach this machine's own addresses.
        self._client = httpx.Client(headers=headers, timeout=limits, trust_env=address.host not in LOOPBACK)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    # Records

    def get(self, kind: TypeAdapter[Record], path: str, **query: Any) -> Record:
        """Ask for a record."""
        return self._record(kind, self.request("GET", path, query=query))

    def page(
        self, kind: TypeAdapter[Page[Record]], path: str, limit: int, after: str | None = None, offset: int | None = None, **query: Any
    ) -> Page[Record]:
        """Ask for a page of a list.

        Raises
        ------
        PageError, CursorError
            It cannot be given.
        """
        check_page(limit, after, offset)
        return self.get(kind, path, limit=limit, after=after, offset=offset, **query)

    def rows(self, kind: TypeAdapter[Page[Record]], path: str) -> Iterator[Record]:
        """Go through a whole list, a page at a time."""
        page = self.page(kind, path, MOST_ROWS)
        yield from page.items
        while page.next is not None:
            page = self.page(kind, path, MOST_ROWS, page.next)
            yield from page.items

    def post(self, kind: TypeAdapter[Record], path: str, body: Any = None, *, repeat: bool = False) -> Record:
        """Ask for something to be done.

        With `repeat` it is asked again when the answer gets lost, because asking for this twice does nothing twice.
        """
        content = None if body is None else as_json(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        return self._record(kind, self.request("POST", path, content=lambda: content, headers=headers, repeat=repeat))

    def _record(self, kind: TypeAdapter[Record], answer: httpx.Response) -> Record:
        try:
            return kind.validate_json(answer.content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            what = f"{self.url} did not answer {answer.request.url.path} as a segkit service does ({first['msg']} {where})."
            raise NotAServiceError(f"{what} {NotAServiceError()}") from error

    # Requests

    def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        content: Callable[[], Any] | None = None,
        headers: dict[str, str] | None = None,
        repeat: bool = False,
    ) -> httpx.Response:
        """Make a request and read its answer whole.

        Parameters
        ----------
        content : callable, optional
            Returns the body, anew for each attempt.
        repeat : bool
            Asking twice does nothing twice; true of GET and HEAD in any case.

        Raises
        ------
        ServiceUnreachableError
            Nobody answers, or the answer broke off.
        SegkitError
            Whatever the service says is wrong.
        """
        return self._insist(lambda: self._build(method, path, query, content, headers), repeat, whole=True)

    @contextmanager
    def stream(self, path: str, *, query: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> Iterator[httpx.Response]:
        """Ask for something large; yields the answer when it begins. What breaks off later is a `ServiceUnreachableError` too."""
        answer = self._insist(lambda: self._build("GET", path, query, None, headers), True, whole=False)
        try:
            yield answer
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        finally:
            answer.close()

    def save(self, path: str, place: str, query: dict[str, Any] | None = None) -> None:
        """Write an answer of any size to a file; one that breaks off is asked for again, as a whole.

        Raises
        ------
        DiskFullError, NotWritableError
            The disk says so.
        """
        for pause in (*PAUSES, None):
            try:
                with faults_in_words(place), open(place, "wb") as file, self.stream(path, query=query) as answer:
                    for piece in answer.iter_bytes():
                        file.write(piece)
                return
            except ServiceUnreachableError:
                if pause is None:
                    raise
                time.sleep(pause)

    def _build(
        self, method: str, path: str, query: dict[str, Any] | None, content: Callable[[], Any] | None, headers: dict[str, str] | None
    ) -> httpx.Request:
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        body = content() if content is not None else None
        return self._client.build_request(method, f"{self.url}{path}", params=asked or None, content=body, headers=headers)

    def _insist(self, build: Callable[[], httpx.Request], repeat: bool, *, whole: bool) -> httpx.Response:
        """Make a request, and again after a pause where that can help and does no harm."""
        for pause in (*PAUSES, None):
            request = build()
            again = pause is not None and (repeat or request.method in REPEATABLE)
            try:
                answer = self._send(request, whole=whole)
            except httpx.RequestError as error:
                if pause is None or not (again or isinstance(error, NOT_SENT)):
                    raise self._unreachable(error) from error
                time.sleep(pause)
                continue
            if pause is None or not again or answer.status_code not in NOT_NOW:
                return self._checked(answer)
            time.sleep(pause_of(answer, pause))
        raise ServiceUnreachableError

    def _send(self, request: httpx.Request, *, whole: bool) -> httpx.Response:
        answer = self._client.send(request, stream=True)
        if whole or answer.status_code >= 300:
            try:
                answer.read()
            finally:
                answer.close()
        return answer

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if answer.status_code >= 300:
            raise fault_of(answer, self.url)
        return answer

    def _unreachable(self, error: httpx.RequestError) -> ServiceUnreachableError:
        if isinstance(error, NOT_SENT):
            return ServiceUnreachableError(
                f"No service answers at {self.url} ({error}). Check the address, and that `segkit serve` runs there."
            )
        if isinstance(error, httpx.TimeoutException):
            return ServiceUnreachableError(f"The service at {self.url} takes too long to answer. Try again; its log and /health say more.")
        return ServiceUnreachableError(
            f"The service at {self.url} broke its answer off ({error}). Ask again; if it happens again, the service's log says why."
        )


def looks() -> Iterator[float]:
    """Yield the seconds to wait between looking again whether something has ended: what is quick is seen soon."""
    pause = FIRST_LOOK
    while True:
        yield pause
        pause = min(2 * pause, LATER_LOOKS)


def pause_of(answer: httpx.Response, pause: float) -> float:
    """Return the seconds to wait before asking again: what the service asks for, within reason."""
    asked = answer.headers.get("retry-after", "")
    return min(float(asked), LONGEST_PAUSE) if asked.isdigit() else pause


def as_json(body: Any) -> bytes:
    """Write a body as JSON; paths as text, arrays as lists.

    Raises
    ------
    InvalidParameterError
        Something in it cannot be sent.
    """
    try:
        return orjson.dumps(body, default=str, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise InvalidParameterError(f"A value cannot be sent as JSON: {error}.") from error


def checked_address(url: str) -> httpx.URL:
    """Read the address of a service.

    Raises
    ------
    NotAServiceError
        It cannot be one.
    """
    try:
        address = httpx.URL(url.strip())
    except httpx.InvalidURL as error:
        raise NotAServiceError(f"{url!r} is no address: {error}. It looks like http://127.0.0.1:8765.") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise NotAServiceError(f"{url!r} is no address of a service. It looks like http://127.0.0.1:8765.")
    return address


def checked_token(token: str) -> str:
    """Return a token, when it can be sent at all.

    Raises
    ------
    NotAdmittedError
        It cannot.
    """
    if not token.isascii() or not token.isprintable() or " " in token:
        raise NotAdmittedError(
            "This cannot be a token: those of `segkit serve` and `segkit token create` are letters, digits, - and _ alone."
        )
    return token
