"""The routes of the service, as a script uses them: lists, objects, exports, uploads and folders."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from plates import QUICK, squares, write_plate
from services import Service, running, service, small_service, worked_off
from tifffile import imwrite

import segkit
from segkit import synthetic
from segkit.exports import binary
from segkit.server.app import create_app
from segkit.settings import Settings

Make = Callable[..., Settings]
COUNTS = (1, 2, 3)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with small_service(tmp_path_factory.mktemp("routes")) as client:
        yield client


def wait_for(client: Service, path: str) -> dict[str, Any]:
    """Ask for something in the background until it has ended."""
    for _ in range(500):
        found: dict[str, Any] = client.get(path).json()
        if found["state"] in ("done", "failed"):
            return found
        time.sleep(0.02)
    raise AssertionError(f"{path} did not end")


# Lists


def test_lists_answer_without_parameters_and_in_pages(client: Service) -> None:
    for path in ("/api/projects", "/api/activity", "/api/projects/1/images", "/api/projects/1/runs", "/api/runs", "/api/runs/1/jobs"):
        page = client.get(path).json()
        assert set(page) == {"items", "total", "next"}
        assert len(page["items"]) == page["total"] >= 1
    first = client.get("/api/projects/1/images?limit=2").json()
    second = client.get("/api/projects/1/images", params={"limit": 2, "after": first["next"]}).json()
    assert [each["name"] for each in first["items"] + second["items"]] == ["002.tif", "001.tif", "000.tif"]
    assert (first["total"], second["next"]) == (3, None)
    assert client.get("/api/projects/1/images?offset=2").json()["items"] == second["items"]


def test_activity_counts_images_jobs_and_objects(database_settings: Settings) -> None:
    worked_off(database_settings, COUNTS)
    with service(database_settings) as client:
        assert client.post("/api/projects", json={"name": "empty"}).status_code == 201
        empty, plate = client.get("/api/activity").json()["items"]
        run = client.get("/api/runs/1").json()
    assert (empty["name"], empty["images"], empty["runs"], empty["objects"]) == ("empty", 0, 0, 0)
    assert (plate["images"], plate["runs"], plate["done"], plate["queued"]) == (3, 1, 3, 0)
    assert plate["objects"] == run["objects"] == sum(COUNTS)


# The path: register, queue, look


def test_a_script_registers_queues_and_looks(make_settings: Make, tmp_path: Path) -> None:
    settings = make_settings("sqlite", **QUICK)
    write_plate(tmp_path / "plate", [1, 2])
    (tmp_path / "plate" / "bad.tif").write_bytes(b"II*\0 no")
    with service(settings) as client:
        project = client.post("/api/projects", json={"name": "plate"}).json()["id"]
        assert client.post("/api/projects", json={"name": "plate"}).status_code == 409
        assert client.post("/api/projects", json={"name": "plate", "exist_ok": True}).json()["id"] == project
        begun = client.post(f"/api/projects/{project}/images", json={"where": [str(tmp_path / "plate")], "pixel_size_um": 0.5})
        assert begun.status_code == 202
        ended = wait_for(client, begun.headers["location"])
        assert (ended["state"], ended["added"], ended["unreadable"], ended["done"]) == ("done", 2, 1, 3)
        bad = client.get(f"/api/projects/{project}/images?unreadable=true").json()
        assert (bad["total"], bad["items"][0]["name"]) == (1, "bad.tif")
        asked = client.post(f"/api/projects/{project}/runs", json={"segmenter": "threshold"})
        again = client.post(f"/api/projects/{project}/runs", json={"segmenter": "threshold"})
        assert (asked.status_code, again.json()["id"]) == (201, asked.json()["id"])
        run = asked.json()["id"]
        assert client.get("/api/queue").json()["queued"] == 2
        assert client.post(f"/api/runs/{run}/cancel").json() == {"jobs": 2}
        assert client.get(f"/api/runs/{run}/jobs?status=cancelled").json()["total"] == 2
        assert client.post(f"/api/runs/{run}/retry").json() == {"jobs": 2}
        job = client.get(f"/api/runs/{run}/jobs").json()["items"][0]["id"]
        assert client.post(f"/api/jobs/{job}/cancel").json() == {"jobs": 1}
        assert client.post(f"/api/jobs/{job}/retry").json() == {"jobs": 1}
        with segkit.open(settings.home, **QUICK) as kit:
            kit.work_off()
        progress = client.get(f"/api/runs/{run}/progress").json()
        assert (progress["done"], progress["objects"]) == (2, 3)
        assert client.delete(f"/api/projects/{project}").status_code == 409
        assert client.delete(f"/api/projects/{project}?confirm=true").status_code == 204
        assert client.get(f"/api/projects/{project}").status_code == 404


def test_a_failed_job_tells_its_reason(make_settings: Make, tmp_path: Path) -> None:
    settings = make_settings("sqlite", **QUICK)
    write_plate(tmp_path / "plate", [1])
    with segkit.open(settings.home, **QUICK) as kit:
        project = kit.project("plate", create=True)
        project.add(tmp_path / "plate")
        (tmp_path / "plate" / "000.tif").unlink()
        project.segment("threshold")
        kit.work_off()
    with service(settings) as client:
        job = client.get("/api/runs/1/jobs?status=failed").json()["items"][0]["id"]
        assert "There is no file" in client.get(f"/api/jobs/{job}").json()["error"]


# Objects


def test_objects_come_in_pages_and_every_form(client: Service) -> None:
    seen, after = [], None
    while True:
        page = client.get("/api/runs/1/objects", params={"limit": 2} | ({"after": after} if after else {})).json()
        seen += page["items"]
        assert page["total"] == sum(COUNTS)
        after = page["next"]
        if after is None:
            break
    assert [(row["image"], row["label"]) for row in seen] == [
        (f"{n:03}.tif", k + 1) for n, count in enumerate(COUNTS) for k in range(count)
    ]
    csv = pyarrow.csv.read_csv(io.BytesIO(client.get("/api/runs/1/objects?format=csv").content))
    parquet = pq.read_table(io.BytesIO(client.get("/api/runs/1/objects?format=parquet").content))
    arrow = pa.ipc.open_stream(client.get("/api/runs/1/objects?format=arrow").content).read_all()
    assert len(csv) == len(parquet) == len(arrow) == sum(COUNTS)
    assert arrow.equals(parquet.cast(arrow.schema))
    assert arrow["area_px"].to_pylist() == [row["area_px"] for row in seen]
    assert csv["image"].to_pylist() == [row["image"] for row in seen]


def test_outlines_come_as_geojson_and_as_arrow(client: Service) -> None:
    place = "/api/runs/1/images/3/outlines"
    answer = client.get(place)
    assert answer.headers["content-type"] == "application/geo+json"
    features = answer.json()["features"]
    rings = list(binary.read_outlines(client.get(place, params={"format": "arrow"}).content))
    assert len(features) == len(rings) == COUNTS[-1]
    for feature, (_, _, is_hole, corners) in zip(features, rings, strict=True):
        assert not is_hole
        assert {tuple(point) for point in feature["geometry"]["coordinates"][0]} == {(column, row) for row, column in corners.tolist()}
    assert client.get(place, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert client.get("/api/runs/1/images/99/outlines").status_code == 404
    assert client.get(f"{place}?format=svg").status_code == 422


def test_objects_as_arrow_are_a_third_of_their_csv(make_settings: Make, tmp_path: Path) -> None:
    with segkit.open(make_settings("sqlite").home, **QUICK) as kit:
        imwrite(tmp_path / "nuclei.tif", synthetic.nuclei_field((1024, 1024), 400, seed=7).image)
        project = kit.project("nuclei", create=True)
        project.add(tmp_path / "nuclei.tif")
        project.segment("threshold").work_off()
        app = create_app(kit.settings, kit)
        with running(app) as address:
            sizes = {form: len(httpx.get(f"{address}/api/runs/1/objects?format={form}").content) for form in ("csv", "arrow")}
    assert sizes["csv"] > 20_000
    assert sizes["arrow"] <= 0.35 * sizes["csv"]


def test_objects_are_filtered_and_columns_chosen(client: Service) -> None:
    page = client.get("/api/runs/1/objects", params={"where": ["image_id>=2", "label=2"], "columns": "image_id,label"}).json()
    assert page == {"items": [{"image_id": 2, "label": 2}, {"image_id": 3, "label": 2}], "total": None, "next": None}
    assert client.get("/api/runs/1/objects?where=image=001.tif&format=csv&columns=label").text.split() == ['"label"', "1", "2"]
    assert len(client.get("/api/runs/1/objects?image_id=3").json()["items"]) == 3
    assert client.get("/api/runs/1/objects?where=area_px>1e9").json()["items"] == []
    one = client.get("/api/runs/1/objects", params={"where": "label>=2", "limit": 1}).json()
    rest = client.get("/api/runs/1/objects", params={"where": "label>=2", "after": one["next"]}).json()
    assert [(row["image_id"], row["label"]) for row in one["items"] + rest["items"]] == [(2, 2), (3, 2), (3, 3)]


def test_a_page_as_a_file_leads_to_the_next(client: Service) -> None:
    answer = client.get("/api/runs/1/objects?format=csv&limit=4")
    assert len(answer.text.splitlines()) == 5
    following = client.get(answer.links["next"]["url"])
    assert len(following.text.splitlines()) == 3
    assert "link" not in following.headers


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("where=area_px", "no filter"),
        ("where=area_px>=", "no filter"),
        ("where=area_px>=ten", "no value of its kind"),
        ("where=area_px>=nan", "no value of its kind"),
        ("where=area_px>=1;drop table job", "no value of its kind"),
        ("where='%20or%201=1", "no filter"),
        ("where=nothing>1", "no column nothing"),
        ("columns=nothing", "no column nothing"),
        ("after=tampered", "cursor"),
    ],
)
def test_a_filter_that_cannot_be_is_explained(client: Service, query: str, says: str) -> None:
    answer = client.get(f"/api/runs/1/objects?{query}")
    assert answer.status_code == 400
    assert says in answer.json()["detail"]


def test_a_cursor_is_good_for_its_filter_alone(client: Service) -> None:
    after = client.get("/api/runs/1/objects?limit=1&where=label>=1").json()["next"]
    assert client.get("/api/runs/1/objects", params={"after": after, "where": "label>=1"}).status_code == 200
    assert client.get("/api/runs/1/objects", params={"after": after, "where": "label>=2"}).status_code == 400
    assert client.get("/api/runs/1/objects", params={"after": after}).status_code == 400


# Exports


@pytest.mark.parametrize(("format", "single"), [("csv", True), ("yolo", False)])
def test_an_export_is_built_once_and_downloaded(client: Service, format: str, single: bool) -> None:
    assert client.get(f"/api/runs/1/exports/{format}").json()["state"] is None
    begun = client.post(f"/api/runs/1/exports/{format}")
    assert begun.status_code == 202
    built = wait_for(client, f"/api/runs/1/exports/{format}")
    assert (built["state"], built["done"], built["total"]) == ("done", 3, 3)
    assert client.post(f"/api/runs/1/exports/{format}").json() == built  # nothing is built twice
    data = client.get(built["download"])
    assert data.status_code == 200
    assert len(data.content) == built["bytes"] if single else data.content[:2] == b"PK"
    listed = {each["format"]: each["state"] for each in client.get("/api/runs/1/exports").json()["items"]}
    assert (listed[format], listed["imagej"]) == ("done", None)


def test_an_export_of_no_results_or_no_format_is_refused(client: Service) -> None:
    assert client.post("/api/runs/1/exports/doc").status_code == 404
    assert client.post("/api/runs/99/exports/csv").status_code == 404


# Uploads


def tiff(count: int, mark: int) -> bytes:
    out = io.BytesIO()
    imwrite(out, squares(count, mark))
    return out.getvalue()


def uploads_of(client: Service) -> list[Path]:
    home = Path(client.app.state.kit.settings.home)
    return [path for path in (home / "uploads").rglob("*") if path.is_file()]


def test_an_upload_becomes_an_image_once(client: Service) -> None:
    project = client.post("/api/projects", json={"name": "uploads"}).json()["id"]
    before = len(uploads_of(client))
    sent = client.post(f"/api/projects/{project}/uploads?name=a b.tif", content=tiff(2, 99))
    again = client.post(f"/api/projects/{project}/uploads?name=c.tif", content=tiff(2, 99))
    assert (sent.status_code, sent.json()["name"], sent.json()["shape"]) == (201, "a b.tif", [64, 64])
    assert again.json() == sent.json()
    assert client.get(f"/api/projects/{project}/images").json()["total"] == 1
    assert len(uploads_of(client)) == before + 1


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("a.tif", b"", 400),
        ("a.tif", b"hello", 415),
        ("a.tif", b"II*\0", 415),
        ("a.tif", b"x" * 100_001, 413),
        ("../a.tif", b"x", 400),
        ("/etc/passwd", b"x", 400),
        ("..", b"x", 400),
        (".hidden.tif", b"x", 400),
        ("a\\b.tif", b"x", 400),
        ("a\nb.tif", b"x", 400),
        ("a\0b.tif", b"x", 422),
        ("", b"x", 422),
        ("x" * 201, b"x", 422),
        ("ü" * 200, b"x", 400),
    ],
)
def test_an_upload_that_cannot_be_leaves_nothing(client: Service, name: str, content: bytes, status: int) -> None:
    before = uploads_of(client)
    answer = client.post("/api/projects/1/uploads", params={"name": name}, content=content)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert uploads_of(client) == before


def test_a_streamed_upload_is_refused_once_it_is_too_large(client: Service) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 10_000

    before = uploads_of(client)
    assert client.post("/api/projects/1/uploads?name=a.tif", content=pieces()).status_code == 413
    assert uploads_of(client) == before


def test_an_upload_that_is_cut_half_way_leaves_nothing(client: Service) -> None:
    before = uploads_of(client)
    with socket.create_connection(("127.0.0.1", client.port)) as wire:
        head = f"POST /api/projects/1/uploads?name=a.tif HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nContent-Length: 5000\r\n\r\n"
        wire.sendall(head.encode() + tiff(1, 50)[:2000])
        for _ in range(100):
            if len(uploads_of(client)) > len(before):
                break
            time.sleep(0.02)
        assert len(uploads_of(client)) == len(before) + 1
    for _ in range(100):
        if uploads_of(client) == before:
            break
        time.sleep(0.02)
    assert uploads_of(client) == before
    assert client.get("/api/projects").status_code == 200


# Folders


def test_with_folders_named_nothing_else_is_registered(make_settings: Make, tmp_path: Path) -> None:
    write_plate(tmp_path / "in", [1])
    write_plate(tmp_path / "out", [2])
    (tmp_path / "in" / "sub").mkdir()
    (tmp_path / "in" / "sub" / "link.tif").symlink_to(tmp_path / "out" / "000.tif")
    with service(make_settings("sqlite", data_folders=str(tmp_path / "in"))) as client:
        client.post("/api/projects", json={"name": "p"})
        inside = str(tmp_path / "in")
        for place in (
            str(tmp_path / "out"),
            f"{inside}/../out",
            "/etc",
            f"{inside}/../*/*.tif",
            "file:///etc",
            "s3://x/y",
            "~",
            f"{inside}x",
        ):
            answer = client.post("/api/projects/1/images", json={"where": [place]})
            assert answer.status_code == 403, place
        begun = client.post("/api/projects/1/images", json={"where": [f"{inside}/*.tif"]})
        assert wait_for(client, begun.headers["location"])["added"] == 1
        begun = client.post("/api/projects/1/images", json={"where": [inside]})
        ended = wait_for(client, begun.headers["location"])
        assert ended["state"] == "failed"
        assert "leads out" in ended["error"]
        assert client.get("/api/projects/1/images").json()["total"] == 1
