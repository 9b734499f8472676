"""The README and its companions: what they show is there, parses and is spelt as the code spells it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import segkit
from segkit import demo, errors
from segkit.cli import app
from segkit.segmenters import names
from segkit.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = [
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.is_file()
]
README = (ROOT / "README.md").read_text()
COMMAND = typer.main.get_command(app)
#: What a person puts in is written in capitals.
STAND_INS = {"N": "1", "NUMBER": "1", "NAME": "nuclei", "FOLDER": "images", "PROJECT": "plate7"}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def written_commands(text: str) -> Iterator[str]:
    """Every `segkit ...` in a page: lines of code blocks, and code in a sentence."""
    for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            found = re.match(r"(?:\.venv/bin/)?(segkit [^#]*)", line.strip())
            if found:
                yield found[1].strip()
    for code in re.findall(r"`(?:\.venv/bin/)?(segkit [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        yield code.strip()


def understand(line: str) -> None:
    """Let the command's own parser read a line, without running it."""
    words = [STAND_INS.get(word, word) for word in shlex.split(line.replace("...", ""))][1:]
    command: Any = COMMAND
    context = command.make_context("segkit", words[:1], resilient_parsing=True)
    while hasattr(command, "commands") and words:
        assert words[0] in command.commands, f"{line}: there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    if words:
        command.make_context("segkit", words, parent=context)


PLACES = [(path.name, line) for path in PAGES for line in written_commands(path.read_text())]
PLACES += [("errors.py", line) for line in written_commands(inspect.getsource(errors))]
PLACES += [("docker-compose.yml", line) for line in re.findall(r"run --rm worker (segkit .*)", (ROOT / "docker-compose.yml").read_text())]


def test_every_command_that_is_written_down_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(PLACES) > 15
    (tmp_path / "sets.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    wrong = []
    for place, line in PLACES:
        try:
            understand(line)
        except (AssertionError, Exception) as error:  # noqa: BLE001 - whatever the parser says is the finding
            wrong.append(f"{place}: {line}: {error!r}")
    assert wrong == []


def test_the_demonstrations_next_commands_are_real(tmp_path: Path) -> None:
    class Run:
        number = 1

    for folder in (None, tmp_path):
        lines = demo.next_commands(tmp_path / "with space", [Run()], folder)  # type: ignore[list-item]
        assert len(lines) == 3
        for line in lines:
            understand(line)


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, each in command.commands.items():
        yield from leaves(each, (*path, name)) if hasattr(each, "commands") else [((*path, name), each)]


#: What people look at, or servers that run until they are stopped: there is no answer to print.
SHOWN = {("demo",), ("serve",), ("scheduler",), ("lab",), ("voila",)}


def test_every_command_says_what_it_does_and_takes_json() -> None:
    for path, command in leaves(COMMAND):
        assert command.help, path
        options = {option for parameter in command.params for option in parameter.opts}
        assert "--json" in options or path in SHOWN, path
        assert "--home" in options or path == ("demo",), path


def test_the_issues_commands_are_there() -> None:
    wanted = {"demo", "init", "add", "run", "worker", "status", "list", "show", "export", "retry", "cancel", "settings", "db", "doctor"}
    assert wanted <= set(COMMAND.commands)  # type: ignore[attr-defined]
    assert {"upgrade", "downgrade", "current", "check"} == set(COMMAND.commands["db"].commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_python_parses_and_what_it_imports_is_there(path: Path) -> None:
    for block in blocks(path.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], node.module
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "segkit":
                assert hasattr(segkit, node.attr), f"segkit.{node.attr}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    assert not [target for target in targets if "://" not in target and not (path.parent / target).exists()]


def test_every_file_that_the_readme_names_is_there() -> None:
    named = re.findall(r"`((?:tests|docs|conf|notebooks|dashboards|benchmarks)/[\w./]*)`", README)
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


def test_every_setting_that_is_written_down_is_one() -> None:
    known = {f"SEGKIT_{name.upper()}" for name in Settings.model_fields} | {"SEGKIT_CONFIG", "SEGKIT_SECRETS"}
    places = [*PAGES, ROOT / "conf" / "segkit.toml", ROOT / "Makefile", *sorted((ROOT / "segkit").rglob("*.py"))]
    wrong = {(path.name, name) for path in places for name in re.findall(r"\bSEGKIT_[A-Z_]*[A-Z]\b", path.read_text()) if name not in known}
    assert wrong == set()


def test_the_table_of_segmenters_is_that_of_the_code() -> None:
    table = README.partition("## Segmenters")[2].partition("\n\nSizes")[0]
    listed = set(re.findall(r"`([\w-]+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))))
    assert listed == set(names())


def test_no_path_or_host_of_a_machine_is_in_a_page() -> None:
    for path in PAGES:
        assert not re.search(r"/(work|home|root|tmp)/\w", path.read_text()), path.name
