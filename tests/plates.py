"""Small plates of images with bright squares, whose number is known; for tests of everything that runs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

import segkit
from segkit.kit import Kit
from segkit.settings import Settings

#: Settings for tests: everything in this process, and no waiting.
QUICK: dict[str, Any] = {"cluster": "threads", "threads_per_worker": 2, "poll_seconds": 0.1, "retry_seconds": 0}


def squares(count: int, mark: int = 0, edge: int = 64) -> NDArray[np.uint8]:
    """Draw (edge, edge) with 0 to 9 bright squares of 12 × 12; images with different marks differ, if there are squares."""
    pixels = np.full((edge, edge), 5 + mark % 50, np.uint8)
    for square in range(count):
        row, column = divmod(square, 3)
        pixels[4 + 20 * row : 16 + 20 * row, 4 + 20 * column : 16 + 20 * column] = 180 + mark // 50
    return pixels


def write_plate(folder: Path, counts: list[int], first: int = 0) -> Path:
    """Write one image for each count of squares, named 000.tif and so on, no two alike that have squares."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, count in enumerate(counts, first):
        tifffile.imwrite(folder / f"{number:03d}.tif", squares(count, number))
    return folder


def open_kit(settings: Settings, **arguments: object) -> Kit:
    """Open a kit on a database that a fixture made."""
    url = settings.database_url and settings.database_url.get_secret_value()
    return segkit.open(settings.home, database_url=url, **(QUICK | arguments))
