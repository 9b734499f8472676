"""Which notebooks may be run, and whether one can be: its place, its parameters cell, its kernel. All before anything starts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from segkit import notifications
from segkit.batches.parameters import check, declared, from_text, read_notebook, read_text
from segkit.batches.records import Notify, Request
from segkit.errors import (
    NoParametersCellError,
    NotebookError,
    NotebookFolderError,
    NotebookKernelError,
    UnknownNotebookError,
    suggest,
)
from segkit.settings import Settings, shared_folder

#: A notebook without outputs is far smaller; its text is kept in the database.
MOST_BYTES = 16 * 1024**2
ENDS = ("failure", "success", "always")


def allowed_folders(settings: Settings, folder: str | Path = ".") -> list[Path]:
    """List the folders whose notebooks may be run: those that the settings name, seen from `folder`, and segkit's own."""
    named = [Path(folder, place).expanduser() for place in settings.notebook_folders.split(os.pathsep) if place]
    return [place.resolve() for place in (*named, shared_folder("notebooks"))]


def available(settings: Settings, folder: str | Path = ".") -> dict[str, Path]:
    """List the notebooks that may be run by name; a name in an earlier folder hides the same in a later one."""
    found: dict[str, Path] = {}
    for place in allowed_folders(settings, folder):
        for path in sorted(place.glob("*.ipynb")):
            found.setdefault(path.stem, path)
    return found


def find(settings: Settings, notebook: str | Path, folder: str | Path = ".") -> Path:
    """Find a notebook by name or path, in the allowed folders alone.

    Raises
    ------
    UnknownNotebookError
        There is none; the nearest name is suggested.
    NotebookFolderError
        It lies elsewhere, links followed.
    """
    name = str(notebook)
    if os.sep not in name and not name.endswith(".ipynb"):
        known = available(settings, folder)
        if name not in known:
            raise UnknownNotebookError(f'There is no notebook "{name}". {suggest(name, known)}')
        return inside(settings, known[name], folder)
    places = (Path(folder), *allowed_folders(settings, folder))
    existing = next((place / name for place in places if (place / name).is_file()), None)
    if existing is None:
        raise UnknownNotebookError(f'There is no notebook "{name}". {suggest(Path(name).stem, available(settings, folder))}')
    return inside(settings, existing, folder)


def inside(settings: Settings, path: Path, folder: str | Path) -> Path:
    """Refuse a path that leads out of the allowed folders."""
    resolved = path.resolve()
    folders = allowed_folders(settings, folder)
    if not any(resolved.is_relative_to(place) for place in folders):
        raise NotebookFolderError(f"{path} lies outside the allowed folders ({', '.join(map(str, folders))}). {NotebookFolderError()}")
    return resolved


def prepare(
    settings: Settings,
    notebook: str | Path,
    parameters: Mapping[str, Any],
    *,
    as_text: bool = False,
    folder: str | Path = ".",
    kernel: str | None = None,
    time_limit_s: float | None = None,
    notify: Notify | None = None,
) -> Request:
    """Check everything that can be checked before a batch is queued.

    Parameters
    ----------
    notebook
        Name or path of a notebook in the allowed folders.
    parameters
        Values of its parameters; with `as_text` each is text, to be read as its declared type.
    folder
        Where relative paths start, those in the notebook too.
    kernel
        Another kernel than the notebook names.

    Raises
    ------
    NotebookError
        One of its kinds: the notebook, a parameter or the kernel will not do.
    """
    path = find(settings, notebook, folder)
    if path.stat().st_size > MOST_BYTES:
        raise NotebookError(f"{path} is larger than {MOST_BYTES // 1024**2} MiB. Clear its outputs.")
    return prepare_source(
        settings,
        str(notebook),
        path.read_text("utf-8", "replace"),
        parameters,
        as_text=as_text,
        folder=folder,
        kernel=kernel,
        time_limit_s=time_limit_s,
        notify=notify,
    )


def prepare_source(
    settings: Settings,
    title: str,
    source: str,
    parameters: Mapping[str, Any],
    *,
    as_text: bool = False,
    folder: str | Path = ".",
    kernel: str | None = None,
    time_limit_s: float | None = None,
    notify: Notify | None = None,
) -> Request:
    """Check a notebook that was handed over as text; see `prepare`."""
    page = read_notebook(title, source)
    known = declared(page)
    return Request(
        notebook=title,
        source=source,
        parameters=(from_text if as_text else check)(title, known, with_home(settings, known, parameters)),
        kernel=known_kernel(title, kernel or page.metadata.get("kernelspec", {}).get("name")),
        folder=str(Path(folder).resolve()),
        time_limit_s=checked_limit(time_limit_s),
        notify=checked_notify(notify or Notify()),
    )


def with_home(settings: Settings, known: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Hand over where the database is, to a notebook that asks for it."""
    return {"home": absolute_home(settings), **given} if "home" in known else dict(given)


def absolute_home(settings: Settings) -> str:
    """The home folder as a child process finds it, whatever its working folder is."""
    return settings.home if "://" in settings.home else str(Path(settings.home).expanduser().resolve())


def known_kernel(title: str, name: str | None) -> str:
    """Refuse a kernel that is not installed."""
    if not name:
        raise NotebookKernelError(f'Notebook "{title}" does not say which kernel it needs. Open and save it in JupyterLab, or name one.')
    manager = KernelSpecManager()
    try:
        manager.get_kernel_spec(name)
    except NoSuchKernel:
        known = manager.find_kernel_specs()
        raise NotebookKernelError(f'Notebook "{title}" needs the kernel "{name}", which is not installed. {suggest(name, known)}') from None
    return name


def checked_limit(seconds: float | None) -> float | None:
    """Refuse a time limit that is none."""
    if seconds is not None and not 0 < seconds < float("inf"):
        raise NotebookError(f"A time limit is a positive number of seconds, not {seconds!r}.")
    return seconds


def checked_notify(notify: Notify) -> Notify:
    """Refuse addresses that cannot be told, and ends that there are not."""
    if notify.on is not None and notify.on not in ENDS:
        raise NotebookError(f'Notifications are sent on "{notify.on}"? {suggest(notify.on, ENDS)}')
    for url in notify.urls:
        notifications.check(url)
    return notify if notify.urls else Notify()


def may_lack_parameters(settings: Settings, title: str, source: str, given: Mapping[str, str], folder: str | Path) -> Request:
    """Prepare a notebook of JupyterLab's own form, which may run without parameters a notebook that declares none.

    Raises
    ------
    NoParametersCellError
        Parameters are given, and no cell is tagged "parameters".
    """
    try:
        return prepare_source(settings, title, source, given, as_text=True, folder=folder)
    except NoParametersCellError:
        if given:
            raise
    page = read_notebook(title, source)
    kernel = known_kernel(title, page.metadata.get("kernelspec", {}).get("name"))
    return Request(notebook=title, source=source, parameters={}, kernel=kernel, folder=str(Path(folder).resolve()))


def read_parameters(settings: Settings, notebook: str | Path, given: Mapping[str, str], folder: str | Path = ".") -> dict[str, Any]:
    """Read values that came as text as the types that a notebook declares; what cannot be read stays text, for `prepare` to refuse."""
    if not given:
        return {}
    try:
        known = declared(read_notebook(str(notebook), find(settings, notebook, folder).read_text("utf-8", "replace")))
    except NotebookError:
        return dict(given)
    return {name: read_text(known[name], text) if name in known else text for name, text in given.items()}


def described(settings: Settings, folder: str | Path = ".") -> dict[str, list[dict[str, str]]]:
    """List the notebooks that may be run by name, each with its parameters; those that cannot be batches are left out."""
    found = {}
    for name, path in available(settings, folder).items():
        try:
            known = declared(read_notebook(name, path.read_text("utf-8", "replace")))
        except NotebookError:
            continue
        found[name] = [{"name": each.name, "type": each.type_name, "default": each.default, "help": each.help} for each in known.values()]
    return found


def read_sweep(path: Path, common: Mapping[str, str]) -> list[dict[str, Any]]:
    """Read a list of parameter sets from a JSON file, and add the common ones to each; values become text, as on a command line.

    Raises
    ------
    NotebookError
        It holds something else.
    """
    try:
        sets = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise NotebookError(f"{path} cannot be read: {error}.") from None
    if not isinstance(sets, list) or not sets or not all(isinstance(each, dict) for each in sets):
        raise NotebookError(f'{path} must hold a list of parameter sets, such as [{{"project": "a"}}, {{"project": "b"}}].')
    return [{**{name: as_typed(value) for name, value in each.items()}, **common} for each in sets]


def as_typed(value: Any) -> str:
    """Write a value as a command line would have it."""
    return value if isinstance(value, str) else json.dumps(value)
