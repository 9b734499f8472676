"""The oldest versions that are safe, and why: `floors.toml`, and what is installed that is older."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.version import Version

FILE = Path(__file__).with_name("floors.toml")


@dataclass(frozen=True)
class Floor:
    """The oldest version of one package or program that may be used."""

    name: str
    version: str
    reason: str


def floors(section: str = "packages", file: Path = FILE) -> list[Floor]:
    """Read the table: "packages" of Python, or "programs" beside it."""
    return [Floor(name, **said) for name, said in tomllib.loads(file.read_text("utf-8"))[section].items()]


def too_old(known: list[Floor], installed: Callable[[str], str] = version) -> list[str]:
    """Say which packages are older than their floor, and why that matters; those that are not installed do not count.

    Parameters
    ----------
    known
        The floors.
    installed : callable
        Returns the version of a package; raises `PackageNotFoundError` when there is none.
    """
    found = []
    for floor in known:
        try:
            here = installed(floor.name)
        except PackageNotFoundError:
            continue
        if Version(here) < Version(floor.version):
            found.append(f"{floor.name} {here} is older than {floor.version}: {floor.reason}")
    return found
