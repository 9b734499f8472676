"""The OpenAPI of the service is true: schemathesis asks every route for everything that it says, and for what it does not say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from services import TOKEN, service, worked_off

from segkit.server import auth
from segkit.settings import Settings

#: What a request of the right form may be answered with, besides success: 400 is for what only the database can tell.
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 403, 404, 409, 413, 415, 501]

# It names routes as they are declared, which are taken for addresses: /api/projects/{project_id}.
[[operations]]
include-path = "/api/metrics/performance"
phases.stateful.enabled = false

[warnings]
enabled = false
"""


@pytest.mark.parametrize(
    ("dialect", "phases", "examples"),
    [pytest.param("sqlite", "examples,coverage,fuzzing,stateful", 4, marks=pytest.mark.slow), ("postgresql", "fuzzing", 1)],
)
def test_every_route_does_what_openapi_says(
    make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dialect: str, phases: str, examples: int
) -> None:
    monkeypatch.setattr(auth, "MOST_FAILURES", 10**9)  # it comes with many wrong tokens
    settings = make_settings(dialect, token=TOKEN, data_folders=str(tmp_path / "plate"), cluster="threads")
    worked_off(settings)
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    with service(settings, Authorization=f"Bearer {TOKEN}") as client:
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(tmp_path / "schemathesis.toml")]
        place = [f"{client.base_url}/api/openapi.json", "--header", f"Authorization: Bearer {TOKEN}", "--request-timeout", "20"]
        asked = ["--phases", phases, "--checks", "all", "--no-color"]
        amount = ["--max-examples", str(examples), "--seed", "1", "--generation-deterministic"]
        done = subprocess.run(
            [*command, "run", *place, *asked, *amount],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
