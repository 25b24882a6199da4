"""Magic numbers, field offsets and limits of the container: the one place that holds them (spec/container.md)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Field(NamedTuple):
    """One field of a fixed-size structure: its name, byte offset, size in bytes and type as the spec writes it."""

    name: str
    offset: int
    size: int
    type: str


MAGIC = b"\x89GGQ\r\n\x1a\n"
FOOTER_MAGIC = b"\x89GGQEND\n"
MAJOR, MINOR = 1, 0
BYTE_ORDER = 0x01020304
ALIGNMENT = 64
DIGEST_BYTES = 32

HEADER_BYTES = 64
HEADER = (
    Field("magic", 0, 8, "bytes"),
    Field("major", 8, 2, "u16"),
    Field("minor", 10, 2, "u16"),
    Field("byte order", 12, 4, "u32"),
    Field("alignment", 16, 4, "u32"),
    Field("flags", 20, 4, "u32"),
    Field("reserved", 24, 40, "bytes"),
)
HEADER_STRUCT = "<8sHHIII40s"
REQUIRED_FLAGS = 0xFFFF
"""Flags that a reader must understand; the upper sixteen may be ignored."""

FOOTER_BYTES = 64
FOOTER = (
    Field("magic", 0, 8, "bytes"),
    Field("index offset", 8, 8, "u64"),
    Field("index length", 16, 8, "u64"),
    Field("index digest", 24, 32, "bytes"),
    Field("reserved", 56, 4, "u32"),
    Field("checksum", 60, 4, "u32"),
)
FOOTER_STRUCT = "<8sQQ32sI"

COUNTS = (
    Field("metadata", 0, 4, "u32"),
    Field("schemes", 4, 4, "u32"),
    Field("tensors", 8, 4, "u32"),
    Field("segments", 12, 4, "u32"),
    Field("columns", 16, 4, "u32"),
    Field("assets", 20, 4, "u32"),
    Field("retired", 24, 4, "u32"),
    Field("reserved", 28, 4, "u32"),
)
COUNTS_BYTES = 32

RANGE = np.dtype([("offset", "<u8"), ("length", "<u8"), ("digest", "u1", (DIGEST_BYTES,))])
"""A digested range of the file: 48 bytes."""

MAX_DIMENSIONS = 8
TENSOR = np.dtype(
    [("scheme", "<u4"), ("dimensions", "u1"), ("reserved", "u1", (3,)), ("shape", "<u8", (MAX_DIMENSIONS,))]
)
"""A tensor's record: 72 bytes."""

LIMITS = {
    "metadata": 1 << 16,
    "schemes": 1 << 12,
    "tensors": 1 << 20,
    "segments": 1 << 22,
    "columns": 1 << 8,
    "assets": 1 << 12,
    "retired": 1 << 16,
}
"""Largest count of each table of the index."""

MAX_INDEX_BYTES = 1 << 28
MAX_FILE_BYTES = 1 << 62
MAX_ELEMENTS = (1 << 63) - 1
MAX_KEY_BYTES = 255
MAX_NAME_BYTES = 255
MAX_ROLES = 16
MAX_ROLE_BYTES = 32
MAX_GROUP = 1 << 20
FOOTER_SEARCH_BYTES = MAX_INDEX_BYTES + (1 << 12)
"""How far from the end a reader looks for the last whole footer: an index as large as allowed, a footer and padding."""


def padding(position: int) -> int:
    """Zero bytes from `position` to the next multiple of ALIGNMENT."""
    return -position % ALIGNMENT
