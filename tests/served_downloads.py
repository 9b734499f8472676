"""An app of the downloads alone, exports to fetch from it, and archives taken apart."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from fastapi import FastAPI

from segkit.kit import Kit
from segkit.server import downloads, problems


def app_of(kit: Kit) -> FastAPI:
    app = FastAPI()
    app.state.kit = kit
    app.include_router(downloads.router)
    problems.install(app)
    return app


def export(kit: Kit, name: str, data: bytes) -> Path:
    path = Path(kit.settings.home) / "exports" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def unpacked(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}
