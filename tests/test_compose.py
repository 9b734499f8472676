"""docker-compose.yml: valid, nothing in it that segkit does not know, nothing published, no secret inside."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from segkit.settings import Settings, load
from segkit.worker import GRACE_SECONDS

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docker-compose.yml"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def test_it_follows_the_compose_specification() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_variable_is_a_setting() -> None:
    named = set(re.findall(r"SEGKIT_[A-Z_]+", FILE.read_text()))
    known = {f"SEGKIT_{name.upper()}" for name in Settings.model_fields}
    only_compose = {"SEGKIT_IMAGES"}  # read by docker compose itself, for the folder to mount
    assert named - known == only_compose


def test_its_values_are_accepted(document: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in document["services"]["worker"]["environment"].items():
        monkeypatch.setenv(name, str(value))
    assert "$" not in "".join(map(str, document["services"]["worker"]["environment"].values()))
    settings = load(database_url="postgresql://segkit:secret@postgres/segkit")
    assert (settings.home, settings.threads_per_worker, settings.worker_memory) == ("/data", 4, 2 * 1024**3)


def test_only_what_our_process_gets_is_passed_on(document: dict[str, Any]) -> None:
    """SEGKIT_IMAGES inside a container would be refused as an unknown setting."""
    assert not any("SEGKIT_IMAGES" in service.get("environment", {}) for service in document["services"].values())


def test_its_commands_are_commands_of_ours(document: dict[str, Any]) -> None:
    script = document["services"]["worker"]["command"][-1]
    called = [shlex.split(part) for part in script.split("&&")]
    ours = [[word for word in words if word != "exec"][1:] for words in called if "segkit" in words[:2]]
    assert ours == [["db", "upgrade"], ["worker"]]
    for words in ours:
        done = subprocess.run([sys.executable, "-m", "segkit", *words, "--help"], capture_output=True, check=False)
        assert done.returncode == 0


def test_what_is_built_and_mounted_is_there(document: dict[str, Any]) -> None:
    recipe = document["services"]["worker"]["build"]
    assert (ROOT / recipe["context"]).resolve() == ROOT.resolve()
    assert "requirements.lock" in recipe["dockerfile_inline"]
    assert (ROOT / "requirements.lock").is_file()
    volumes = set(document["volumes"])
    for service in document["services"].values():
        for mount in service.get("volumes", []):
            source = mount.rpartition("}")[2] if "${" in mount else mount.split(":")[0]
            assert "${SEGKIT_IMAGES" in mount or source in volumes


def test_nothing_is_published_and_no_secret_is_inside(document: dict[str, Any]) -> None:
    for service in document["services"].values():
        assert "ports" not in service
        assert "network_mode" not in service
        assert not service.get("privileged")
    assert not re.search(r"(?i)password: *[^\s{]", FILE.read_text())
    assert document["secrets"]["postgres_password"] == {"file": "./secrets/postgres_password"}


def test_images_are_mounted_read_only(document: dict[str, Any]) -> None:
    (mount,) = [each for each in document["services"]["worker"]["volumes"] if "/images" in each]
    assert mount.endswith(":/images:ro")


def test_a_worker_has_time_to_give_its_work_back(document: dict[str, Any]) -> None:
    assert int(document["services"]["worker"]["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS
