"""Disks that misbehave, for tests: one that is full, one that cannot be written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    """Mount a small disk in memory; skips the test where that is not allowed."""
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@contextmanager
def unwritable(path: Path) -> Iterator[Path]:
    """Make a folder that cannot be written: by its permissions, or, for root, who is above them, by a read-only disk."""
    if os.geteuid() == 0:
        with mounted(path, "size=1m,ro"):
            yield path
        return
    path.mkdir(mode=0o500)
    try:
        yield path
    finally:
        path.chmod(0o700)
