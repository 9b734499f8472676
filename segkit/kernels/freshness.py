"""Forget compiled kernels that were made from sources since changed.

Numba recompiles a kernel when its own file changes, but not when another file's kernel that it calls does. After a
`git pull`, a cached kernel would then go on doing what it did before.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_IMPORT = re.compile(r"^(?:from|import) segkit\.kernels\.(\w+)", re.MULTILINE)


def drop_stale_cache(folder: Path) -> list[str]:
    """Delete the cached kernels of each module in `folder` that are older than any module it stands on; return those modules."""
    sources = {path.stem: path for path in folder.glob("*.py")}
    imports = {name: set(_IMPORT.findall(path.read_text(encoding="utf-8"))) for name, path in sources.items()}
    indexes = list((folder / "__pycache__").glob("*.nbi"))
    stale = []
    for name in sources:
        newest = max(sources[part].stat().st_mtime for part in _closure(name, imports))
        old = [index for index in indexes if index.name.startswith(f"{name}.") and index.stat().st_mtime < newest]
        for index in old:
            with suppress(OSError):  # another process was faster, or the folder is read-only
                index.unlink()
        if old:
            stale.append(name)
    return stale


def _closure(name: str, imports: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        part = waiting.pop()
        if part in imports and part not in found:
            found.add(part)
            waiting.extend(imports[part])
    return found
