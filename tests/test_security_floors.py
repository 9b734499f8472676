"""What is installed is no older than what is safe, and what is older is told."""

from __future__ import annotations

from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from segkit.doctor import floors, machine, services
from segkit.settings import load

ROOT = Path(__file__).parent.parent


def test_what_is_installed_is_safe() -> None:
    known = floors.floors()
    assert len(known) >= 25
    assert not floors.too_old(known)


def test_every_floor_gives_its_reason() -> None:
    for floor in floors.floors() + floors.floors("programs"):
        assert Version(floor.version)
        assert len(floor.reason) > 20


@pytest.mark.parametrize("floor", floors.floors(), ids=lambda floor: floor.name)
def test_a_version_below_its_floor_is_told_with_its_reason(floor: floors.Floor) -> None:
    (told,) = floors.too_old([floor], lambda name: f"{floor.version}rc1")
    assert floor.reason in told
    assert not floors.too_old([floor], lambda name: floor.version)


def test_the_doctor_finds_a_version_below_its_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(home=str(tmp_path))
    assert machine.versions(settings).state == "ok"
    raised = tmp_path / "floors.toml"
    raised.write_text(floors.FILE.read_text().replace('version = "12.3.0"', 'version = "9999"'))
    known = floors.floors(file=raised)
    monkeypatch.setattr(floors, "floors", lambda: known)
    found = machine.versions(settings)
    assert (found.state, "pillow" in found.detail, "9999" in found.detail, "CVE-2026-59197" in found.detail) == ("fault", True, True, True)
    assert found.advice


def test_the_lock_file_is_safe() -> None:
    """What `make install` brings, whatever is installed here."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = dict(line.split(" ")[0].split("==") for line in lines if "==" in line and not line.startswith((" ", "#")))
    assert len(locked) > 100
    known = floors.floors()
    old = [floor for floor in known if floor.name in locked and Version(locked[floor.name]) < Version(floor.version)]
    assert not old
    named = {Requirement(line).name for line in requires("segkit") or []}
    assert [floor.name for floor in known if floor.name in named], "the names are written as packages write them"


def test_programs_are_told_with_the_same_numbers() -> None:
    known = {floor.name: floor.version for floor in floors.floors("programs")}
    assert known["sqlite"] == ".".join(map(str, services.SAFE_SQLITE))
