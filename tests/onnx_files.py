"""ONNX files written by hand: the few protobuf fields that onnxruntime needs, so that tests need no package to make them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FLOAT, UINT8, INT64 = 1, 2, 7


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, content: bytes | str) -> bytes:
    held = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(held)) + held


def tensor(name: str, values: NDArray[np.float32]) -> bytes:
    dims = b"".join(number(1, size) for size in values.shape)
    return dims + number(2, FLOAT) + message(8, name) + message(9, np.ascontiguousarray(values, dtype=np.float32).tobytes())


def value(name: str, kind: int, shape: tuple[int | str, ...]) -> bytes:
    dims = b"".join(message(1, number(1, size) if isinstance(size, int) else message(2, size)) for size in shape)
    return message(1, name) + message(2, message(1, number(1, kind) + message(2, dims)))


def node(kind: str, inputs: list[str], output: str, **integers: int) -> bytes:
    attributes = b"".join(message(5, message(1, key) + number(3, given) + number(20, 2)) for key, given in integers.items())
    return b"".join(message(1, name) for name in inputs) + message(2, output) + message(4, kind) + attributes


def model(nodes: list[bytes], inputs: list[bytes], outputs: list[bytes], constants: list[bytes] | None = None) -> bytes:
    graph = b"".join(message(1, entry) for entry in nodes) + message(2, "graph")
    graph += b"".join(message(5, entry) for entry in constants or [])
    graph += b"".join(message(11, entry) for entry in inputs) + b"".join(message(12, entry) for entry in outputs)
    return number(1, 8) + message(7, graph) + message(8, number(2, 13))
