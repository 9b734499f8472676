"""What the page gets: hand-written ES modules, put together without a build step. Nothing is fetched from anywhere."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

PAGE = Path(__file__).parent / "page"
IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./([a-z]+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export ((?:async )?(?:function|class|const) (\w+))", re.MULTILINE)


@cache
def script(name: str) -> str:
    """Return a module with all that it imports in one text, since a widget's page cannot load a second file.

    Each imported module becomes a function that returns what it exports, so that its other names stay its own.
    """
    order: list[str] = []
    _gather(name.removesuffix(".js"), order)
    *imported, entry = order
    return "\n".join([*(_enclosed(each) for each in imported), _linked(_text(entry))])


@cache
def style() -> str:
    """Return the style sheet of all widgets."""
    return (PAGE / "widgets.css").read_text("utf-8")


def _text(module: str) -> str:
    return (PAGE / f"{module}.js").read_text("utf-8")


def _gather(module: str, order: list[str]) -> None:
    """List a module after those that it imports, each once."""
    for _, other in IMPORT.findall(_text(module)):
        if other not in order:
            _gather(other, order)
    if module not in order:
        order.append(module)


def _linked(text: str) -> str:
    """Let a module take what it imports from where it was put."""
    return IMPORT.sub(r"const \1 = $\2;", text)


def _enclosed(module: str) -> str:
    text = _text(module)
    exported = ", ".join(name for _, name in EXPORT.findall(text))
    body = EXPORT.sub(r"\1", _linked(text))
    return f"const ${module} = (() => {{\n{body}\nreturn {{ {exported} }};\n}})();"
