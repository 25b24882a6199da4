"""GGUF files for tests, written from a table of keys and arrays."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ggq.format.gguf.types import TYPES

IDS = {block.name: number for number, block in TYPES.items()}


def string(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def value(found: Any) -> bytes:
    """A value with its type: bool, u32, f32, string, and arrays of i32, f32 and strings."""
    if isinstance(found, bool):
        return struct.pack("<IB", 7, found)
    if isinstance(found, int):
        return struct.pack("<II", 4, found)
    if isinstance(found, float):
        return struct.pack("<If", 6, found)
    if isinstance(found, str | bytes):
        return struct.pack("<I", 8) + string(found)
    if isinstance(found, np.ndarray):
        kind, data = (5, found.astype("<i4")) if found.dtype.kind in "iu" else (6, found.astype("<f4"))
        return struct.pack("<IIQ", 9, kind, len(found)) + data.tobytes()
    return struct.pack("<IIQ", 9, 8, len(found)) + b"".join(map(string, found))


def gguf(keys: Mapping[str, Any], tensors: Mapping[str, Any], *, version: int = 3, alignment: int = 32) -> bytes:
    """The bytes of a file.

    Args:
        keys: Values by key; bytes are taken as an encoded value.
        tensors: float32 arrays, or (type name, shape, bytes).
        version, alignment: Of the file.
    """
    listed, data = b"", b""
    for name, found in tensors.items():
        if isinstance(found, np.ndarray):
            found = ("F32", found.shape, np.ascontiguousarray(found, "<f4").tobytes())
        kind, shape, raw = found
        data += b"\0" * (-len(data) % alignment)
        number = IDS[kind] if isinstance(kind, str) else kind
        listed += string(name) + struct.pack("<I", len(shape))
        listed += b"".join(struct.pack("<Q", size) for size in reversed(shape))
        listed += struct.pack("<IQ", number, len(data))
        data += raw
    pairs = b"".join(string(key) + (v.data if isinstance(v, Raw) else value(v)) for key, v in keys.items())
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + pairs + listed
    return head + b"\0" * (-len(head) % alignment) + data


class Raw:
    """A value as bytes, its type first."""

    def __init__(self, data: bytes) -> None:
        self.data = data


def write_gguf(path: Path, keys: Mapping[str, Any], tensors: Mapping[str, Any], **options: int) -> Path:
    path.write_bytes(gguf(keys, tensors, **options))
    return path
