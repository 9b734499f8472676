"""Downloads as clients meet them: ranges, conditions, archives, and names that lead elsewhere."""

from __future__ import annotations

import email.parser
import email.policy
import http.client
import io
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

import segkit
from segkit.kit import Kit
from segkit.runs import Run
from segkit.server.bodies import disposition
from segkit.server.ranges import MOST_PIECES
from segkit.settings import Settings
from tests.finished_runs import finish_run
from tests.live_service import serving
from tests.served_downloads import app_of, export, unpacked


@pytest.fixture
def kit(make_settings: Callable[..., Settings]) -> Iterator[Kit]:
    with segkit.open(make_settings("sqlite").home) as kit:
        yield kit


@pytest.fixture
def run(kit: Kit) -> Run:
    """A run of three images with results."""
    return finish_run(kit, 3)


@pytest.fixture
def client(kit: Kit) -> Iterator[httpx.Client]:
    with serving(app_of(kit)) as service, httpx.Client(base_url=service.url) as client:
        yield client


@pytest.fixture
def data(kit: Kit) -> bytes:
    """Bytes of an export that is not compressible and longer than a piece."""
    data = random.Random(1).randbytes(1_300_000)
    export(kit, "big.bin", data)
    return data


def raw_get(client: httpx.Client, path: str) -> tuple[int, str, bytes]:
    """Ask for a path exactly as it is written; httpx would tidy it up. Returns status, media type and body."""
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port or 80, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type", ""), answer.read()
    finally:
        connection.close()


BIG = "/api/download/exports/big.bin"


# Files


def test_every_file_of_a_result_is_listed_and_comes_as_it_is(client: httpx.Client, kit: Kit, run: Run) -> None:
    result = next(run.results())
    top = f"/api/download/runs/{run.number}/images/{result.image.id}"
    listed = client.get(top).json()
    names = {each["name"]: each["bytes"] for each in listed["items"]}
    on_disk = {str(path.relative_to(result.path)): path for path in Path(result.path).rglob("*") if path.is_file()}
    assert set(names) == set(on_disk)
    assert listed["total"] == len(names)
    for name, path in on_disk.items():
        answer = client.get(f"{top}/{name}")
        assert answer.status_code == 200
        assert answer.content == path.read_bytes()
        assert len(answer.content) == names[name]
        assert answer.headers["etag"].startswith('"')


def test_head_tells_what_get_sends(client: httpx.Client, data: bytes) -> None:
    head, get = client.head(BIG), client.get(BIG)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("content-length", "etag", "last-modified", "accept-ranges", "content-type", "content-disposition"):
        assert head.headers[name] == get.headers[name]
    assert head.headers["content-length"] == str(len(data))
    assert get.content == data
    assert client.head(BIG, headers={"Range": "bytes=0-0"}).status_code == 200


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=1299990-", 1299990, 1300000), ("bytes=-7", 1299993, 1300000),
     ("bytes=5-99999999", 5, 1300000), ("bytes=-99999999", 0, 1300000), ("BYTES= 3-4", 3, 5), ("bytes=0-9,5-20,18-30", 0, 31)],
)  # fmt: skip
def test_a_single_range(client: httpx.Client, data: bytes, asked: str, start: int, stop: int) -> None:
    answer = client.get(BIG, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == data[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(data)}"


def test_several_ranges(client: httpx.Client, data: bytes) -> None:
    answer = client.get(BIG, headers={"Range": "bytes=1000000-1000009,0-4,-3,9999999-"})
    assert answer.status_code == 206
    assert int(answer.headers["content-length"]) == len(answer.content)
    kind = answer.headers["content-type"]
    assert kind.startswith("multipart/byteranges; boundary=")
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(f"Content-Type: {kind}\r\n".encode() + answer.content)
    parts = [(part["Content-Range"], part.get_payload(decode=True)) for part in message.iter_parts()]
    size = len(data)
    assert parts == [
        (f"bytes 1000000-1000009/{size}", data[1000000:1000010]),
        (f"bytes 0-4/{size}", data[:5]),
        (f"bytes {size - 3}-{size - 1}/{size}", data[-3:]),
    ]


WRONG = ["bytes=1300000-", "bytes=9999999-99999999", "bytes=-0", "bytes=5-2", "bytes=a-b", "bytes=", "bytes=-", "bytes=1--2", "bytes=0x1-2",
     "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 20000, 2)), "bytes=" + ",".join(["0-"] * 10_000),
         "bytes=" + "9" * 40 + "-"]  # fmt: skip


def test_ranges_that_cannot_be_had_are_416_with_words(client: httpx.Client, data: bytes) -> None:
    for asked in WRONG:
        answer = client.get(BIG, headers={"Range": asked})
        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{len(data)}"
        assert answer.headers["content-type"] == "application/problem+json"
        assert "Range" in answer.json()["detail"]


def test_as_many_pieces_as_are_allowed(client: httpx.Client, data: bytes) -> None:
    asked = ",".join(f"{n * 1000}-{n * 1000}" for n in range(MOST_PIECES))
    assert client.get(BIG, headers={"Range": f"bytes={asked}"}).status_code == 206


def test_other_units_do_not_matter(client: httpx.Client, data: bytes) -> None:
    assert client.get(BIG, headers={"Range": "lines=1-2"}).status_code == 200


def test_an_empty_file(client: httpx.Client, kit: Kit) -> None:
    export(kit, "empty.csv", b"")
    answer = client.get("/api/download/exports/empty.csv")
    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["content-length"] == "0"
    assert client.get("/api/download/exports/empty.csv", headers={"Range": "bytes=0-"}).status_code == 416


# Conditions


def test_known_versions_are_not_sent_again(client: httpx.Client, data: bytes) -> None:
    told = client.head(BIG).headers
    for headers in (
        {"If-None-Match": told["etag"]},
        {"If-None-Match": f'"x", W/{told["etag"]}'},
        {"If-None-Match": "*"},
        {"If-Modified-Since": told["last-modified"]},
    ):
        answer = client.get(BIG, headers=headers)
        assert answer.status_code == 304
        assert answer.content == b""
        assert answer.headers["etag"] == told["etag"]
    assert client.get(BIG, headers={"If-None-Match": '"other"', "If-Modified-Since": told["last-modified"]}).status_code == 200
    assert client.get(BIG, headers={"If-Modified-Since": "yesterday"}).status_code == 200


def test_preconditions(client: httpx.Client, data: bytes) -> None:
    told = client.head(BIG).headers
    old = "Mon, 01 Jan 1990 00:00:00 GMT"
    assert client.get(BIG, headers={"If-Match": told["etag"]}).status_code == 200
    assert client.get(BIG, headers={"If-Match": '"other"'}).status_code == 412
    assert client.get(BIG, headers={"If-Unmodified-Since": old}).status_code == 412
    assert client.get(BIG, headers={"If-Unmodified-Since": told["last-modified"]}).status_code == 200


def test_if_range_continues_only_the_same_version(client: httpx.Client, data: bytes) -> None:
    told = client.head(BIG).headers

    def status(mark: str) -> int:
        return client.get(BIG, headers={"Range": "bytes=5-9", "If-Range": mark}).status_code

    assert status(told["etag"]) == 206
    assert status(told["last-modified"]) == 206
    assert status('"other"') == 200
    assert status(f"W/{told['etag']}") == 200
    assert status("Mon, 01 Jan 1990 00:00:00 GMT") == 200


def test_a_replaced_file_has_another_tag(client: httpx.Client, kit: Kit, data: bytes) -> None:
    before = client.head(BIG).headers["etag"]
    path = export(kit, "new.bin", data[::-1])
    os.utime(path, (1e9, 1e9))
    os.replace(path, path.parent / "big.bin")
    assert client.head(BIG).headers["etag"] != before


# Names


WILD = ["../segkit.db", "..%2fsegkit.db", "%2e%2e/segkit.db", "%2e%2e%2fsegkit.db", "a/../../segkit.db", "/etc/passwd", "%2fetc%2fpasswd",
     "big.bin%00", "%00", "link.bin", "folder/passwd", "", ".", "./big.bin", "big.bin/", "//etc/passwd", "x" * 900, "%ff%fe",
     "..\\segkit.db",
     "folder.zip", "link.zip", "..zip", "../exports.zip", ".part-1", "fifo"]  # fmt: skip


def test_no_name_leads_out_of_the_exports(client: httpx.Client, kit: Kit, data: bytes) -> None:
    exports = Path(kit.settings.home) / "exports"
    (exports / "link.bin").symlink_to(Path(kit.settings.home) / "segkit.db")
    (exports / "link").symlink_to(kit.settings.home)
    (exports / "folder").symlink_to("/etc")
    (exports / ".part-1").write_bytes(b"half")
    os.mkfifo(exports / "fifo")
    for name in WILD:
        status, kind, body = raw_get(client, f"/api/download/exports/{name}")
        assert (status, kind) == (404, "application/problem+json"), name
        assert b"SQLite" not in body
        assert b"root" not in body


@pytest.mark.parametrize(
    "name",
    ["../2/objects.parquet", "%2e%2e/objects.parquet", "labels.ome.zarr", "labels.ome.zarr/../objects.parquet", "/objects.parquet", "x%00"],
)
def test_only_what_a_result_lists_can_be_named(client: httpx.Client, run: Run, name: str) -> None:
    image = next(run.results()).image.id
    assert raw_get(client, f"/api/download/runs/{run.number}/images/{image}/{name}")[0] == 404


def test_a_result_file_that_became_a_link_is_not_followed(client: httpx.Client, run: Run) -> None:
    result = next(run.results())
    table = Path(result.path) / "objects.parquet"
    table.unlink()
    table.symlink_to("/etc/passwd")
    assert client.get(f"/api/download/runs/{run.number}/images/{result.image.id}/objects.parquet").status_code == 404


def test_numbers_that_are_none(client: httpx.Client, run: Run) -> None:
    for number in ("0", "-1", "x", "1.5", "99999999999999999999", "9223372036854775807", "%00", "1_0"):
        for path in (f"runs/{number}.zip", f"runs/{number}/images/1/objects.parquet", f"runs/{run.number}/images/{number}"):
            assert raw_get(client, f"/api/download/{path}")[0] in (404, 422)


def test_names_in_headers_are_tame() -> None:
    assert disposition("a.csv") == 'attachment; filename="a.csv"'
    wild = disposition('../é"\r\nSet-Cookie: x=1/\\.csv')
    assert "\r" not in wild
    assert "\n" not in wild
    assert "/" not in wild.partition(";")[2].partition("filename*")[0]
    wild.encode("latin-1")


# Archives


def test_a_run_as_a_zip(client: httpx.Client, run: Run) -> None:
    answer = client.get(f"/api/download/runs/{run.number}.zip")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    assert f'filename="segkit-run-{run.number}.zip"' in answer.headers["content-disposition"]
    found = unpacked(answer.content)
    expected = {}
    for result in run.results():
        top = f"{result.image.id}_{result.image.name}"
        expected |= {f"{top}/{path.relative_to(result.path)}": path.read_bytes() for path in Path(result.path).rglob("*") if path.is_file()}
    assert found == expected
    assert len(found) >= 15


def test_any_range_of_a_zip_is_that_of_the_whole(client: httpx.Client, run: Run) -> None:
    path = f"/api/download/runs/{run.number}.zip"
    parts = client.get(path, headers={"Range": "bytes=-50000"}).content  # the directory first, before any CRC is known
    whole = client.get(path).content
    assert parts == whole[-50000:]
    chance = random.Random(5)
    for _ in range(60):
        start = chance.randrange(len(whole))
        stop = min(len(whole), start + chance.choice([1, 7, 100, 5000]))
        assert client.get(path, headers={"Range": f"bytes={start}-{stop - 1}"}).content == whole[start:stop]


def test_a_zip_changes_its_tag_with_its_members(client: httpx.Client, kit: Kit, run: Run) -> None:
    path = f"/api/download/runs/{run.number}.zip"
    tag = client.head(path).headers["etag"]
    assert client.head(path).headers["etag"] == tag
    finish_run(kit, 3, again=True)
    new = client.head(path).headers["etag"]
    assert new != tag
    unpacked(client.get(path, headers={"Range": "bytes=0-", "If-Range": tag}).content)


def test_a_member_that_is_lost_ends_the_download_early(client: httpx.Client, run: Run) -> None:
    path = f"/api/download/runs/{run.number}.zip"
    assert client.head(path).status_code == 200
    (Path(next(run.results()).path) / "objects.parquet").unlink()
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(path)


def test_runs_without_results(client: httpx.Client, kit: Kit, tmp_path: Path) -> None:
    assert client.get("/api/download/runs/77.zip").status_code == 404
    assert client.get("/api/download/runs/77/images/1/objects.parquet").status_code == 404


def test_a_folder_of_exports_as_a_zip(client: httpx.Client, kit: Kit) -> None:
    export(kit, "run-1-geojson/a.geojson", b"{}" * 100)
    export(kit, "run-1-geojson/deep/b.geojson", b"[]")
    path = "/api/download/exports/run-1-geojson.zip"
    first = client.get(path)
    assert unpacked(first.content) == {"a.geojson": b"{}" * 100, "deep/b.geojson": b"[]"}
    export(kit, "run-1-geojson/a.geojson", b"{}" * 99 + b"[]")
    assert client.head(path).headers["etag"] != first.headers["etag"]


# Stores


def test_downloads_from_a_store(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    settings = make_settings("sqlite")
    home = f"memory://segkit-{tmp_path.name}"
    with (
        segkit.open(home, database_url=f"sqlite:///{settings.home}/segkit.db") as kit,
        serving(app_of(kit)) as service,
        httpx.Client(base_url=service.url) as client,
    ):
        run = finish_run(kit, 2)
        image = next(run.results()).image.id
        table = client.get(f"/api/download/runs/{run.number}/images/{image}/objects.parquet")
        assert pq.read_table(io.BytesIO(table.content)).num_rows > 0
        part = client.get(f"/api/download/runs/{run.number}/images/{image}/objects.parquet", headers={"Range": "bytes=4-20"})
        assert part.status_code == 206
        assert part.content == table.content[4:21]
        assert len(unpacked(client.get(f"/api/download/runs/{run.number}.zip").content)) >= 10
        assert client.get("/api/download/exports/x").status_code == 404
