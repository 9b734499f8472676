"""Small pictures of images, drawn by the service."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segkit.client.connection import Connection


def thumbnail(
    connection: Connection, image: int, edge: int, *, channel: int | str | None = None, z: int | str | None = None, time: int = 0
) -> NDArray[np.uint8]:
    """Have an image drawn small.

    Parameters
    ----------
    connection
        To the service.
    image : int
        The image's number.
    edge : int
        Pixels on the longer side, at most 2048.
    channel, z, time
        What is drawn: channel by number or name; plane by number, "max" or "mean"; time point.

    Returns
    -------
    (rows, columns) or (rows, columns, 3) uint8
        Contrast stretched.
    """
    query = {"edge": edge, "channel": channel, "z": z, "time": time, "form": "png"}
    answer = connection.request("GET", f"/api/images/{image}/thumbnail", query=query)
    with Image.open(io.BytesIO(answer.content)) as picture:
        return np.asarray(picture)
