"""Images for tests that need rows and no files; run as a program it is another process that writes when told.

python -m tests.images_in_a_project     settings as JSON in the first line; then "ID N" in, "done" out after the commit
"""

from __future__ import annotations

import itertools
import json
import sys
import uuid

from segkit import catalog
from segkit.database import Database, open_database
from segkit.images import ImageInfo
from segkit.settings import load

_numbers = itertools.count()


def image_info(number: int | str) -> ImageInfo:
    """An image that nobody has."""
    return ImageInfo(
        uri=f"file:///nowhere/{number}.tif",
        name=f"{number}.tif",
        content_hash=f"sha256:{uuid.uuid4().hex}",
        format="tiff",
        axes="CYX",
        shape=(2, 512, 512),
        dtype="uint16",
        channels=("DAPI", "GFP"),
        pixel_size_um=0.325,
        z_step_um=None,
        time_step_s=None,
        bytes=1_048_576,
    )


def add_images(database: Database, project_id: int, number: int) -> None:
    """Add so many images that are not there yet."""
    with database.write() as connection:
        catalog.add(connection, project_id, [image_info(f"image {next(_numbers)}") for _ in range(number)])


def main() -> None:
    """Write when told."""
    with open_database(load(**json.loads(sys.stdin.readline()))) as database:
        print("ready", flush=True)
        for line in sys.stdin:
            project_id, number = map(int, line.split())
            add_images(database, project_id, number)
            print("done", flush=True)


if __name__ == "__main__":
    main()
