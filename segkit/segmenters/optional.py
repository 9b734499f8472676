"""Packages that a segmenter needs only when it is used: loaded then, with a sentence on how to install what is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import fsspec

from segkit.errors import MissingExtraError, ModelFileError


def load_package(name: str, purpose: str, extra: str) -> Any:
    """Import a module by name.

    Raises
    ------
    MissingExtraError
        When it, or something that it needs, is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(purpose, extra) from error


def read_model_file(uri: str, largest: int = 2**32) -> bytes:
    """Read a file from a path or fsspec URL, up to `largest` bytes.

    Raises
    ------
    ModelFileError
        When it cannot be read, or is larger.
    """
    try:
        with fsspec.open(str(uri), "rb") as file:
            content = file.read(largest + 1)
    except (OSError, ValueError, ImportError) as error:
        raise ModelFileError(f"The model {uri} cannot be read: {error}. Check the path.") from error
    if len(content) > largest:
        raise ModelFileError(f"The model {uri} is larger than {largest >> 20} MiB.")
    return bytes(content)


def file_hash(content: bytes) -> str:
    """Return the content hash of a file: 40 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=20).hexdigest()


def with_model_hash(values: Any) -> Any:
    """Put beside the model file that was asked for its content hash, so that a run remembers which one it used."""
    if isinstance(values, Mapping) and values.get("model") and not values.get("model_hash"):
        return {**values, "model_hash": file_hash(read_model_file(str(values["model"])))}
    return values
