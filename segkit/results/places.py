"""Where results lie, relative to the home folder."""

from __future__ import annotations

import os
import uuid

from segkit.files import is_local, join, local_path

LABELS = "labels.ome.zarr"
OBJECTS = "objects.parquet"
PROVENANCE = "provenance.json"
RESULTS = "results"
SCRATCH = "tiles"
CLASSIFIERS = "classifiers"


def root(home: str) -> str:
    """Return the home folder as an absolute path, or its URL as it is."""
    return os.path.abspath(os.path.expanduser(local_path(home))) if is_local(home) else home.rstrip("/")


def locate(home: str, stored: str) -> str:
    """Return the full path or URL of what is stored relative to the home folder."""
    return join(root(home), stored)


def run_path(home: str, run_id: int) -> str:
    """Folder of all results of a run; `discard` it when the run is deleted."""
    return join(root(home), RESULTS, str(run_id))


def staging(home: str, run_id: int, image_id: int, attempt: int) -> str:
    """Name a fresh place for one attempt, on the same disk as the place where it will be published."""
    return join(run_path(home, run_id), f"{image_id}.{attempt}-{uuid.uuid4().hex[:8]}")


def scratch(home: str, run_id: int, image_id: int | None = None) -> str:
    """Folder of what lies between the passes over a large image, the same for every attempt; or that of a whole run."""
    return join(root(home), SCRATCH, str(run_id), *([] if image_id is None else [str(image_id)]))


def classifiers_path(home: str, project_id: int) -> str:
    """Folder of the classifiers that were painted in a project, with their strokes."""
    return join(root(home), CLASSIFIERS, str(project_id))


def labels_path(result: str) -> str:
    """Where the label image of a result lies."""
    return join(result, LABELS)


def objects_path(result: str) -> str:
    """Where the object table of a result lies."""
    return join(result, OBJECTS)
