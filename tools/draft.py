"""Putting a ggq file together without checking anything, so that files can be made that break one rule.

Written from spec/container.md with the standard library and blake3; it shares no code with the package.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from blake3 import blake3

BOOL, I64, U64, F64, STRING, BYTES, ARRAY = range(1, 8)
FLOAT32 = b"\x00\x01\x06values" + struct.pack("<BBBBBBHIBBB", 32, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0)


ROLES = (b"codes", b"scales", b"subscales", b"zeros", b"minimums", b"subminimums", b"codebook")
TRANSFORMS = (b"input_scale", b"input_order")


def uniform(bits: int, planes: Sequence[int], group: int, *, zero: int = 0, kind: int = 1, **changes: int) -> bytes:
    """The descriptor of a scheme of codes; `changes` are fields of the body by name."""
    body = {"bits": bits, "value": 0, "scale": 2, "scale_form": 1, "zero_form": zero, "subscale_bits": 0}
    body |= {"supergroup": 0, "group": group, "layout": 1, "transform": 0, "planes": len(planes)}
    body |= {"value": 4} if kind == 4 else {}
    body |= changes
    two = body["scale_form"] == 2
    there = [True, True, two, zero == 1, zero == 2, two and zero == 2, kind == 4]
    roles = [role for role, is_there in zip(ROLES, there) if is_there]
    roles += [role for bit, role in enumerate(TRANSFORMS) if body["transform"] >> bit & 1]
    return descriptor(kind, roles, struct.pack("<BBBBBBHIBBB", *body.values()) + bytes(planes))


def two_level(bits: int, planes: Sequence[int], group: int, subscale: int, **changes: int) -> bytes:
    """The descriptor of a scheme with two-level scales."""
    return uniform(bits, planes, group, **{"scale_form": 2, "subscale_bits": subscale, "supergroup": 8} | changes)


def descriptor(kind: int, roles: Sequence[bytes], body: bytes) -> bytes:
    """A descriptor of any kind."""
    return bytes([kind, len(roles)]) + b"".join(bytes([len(role)]) + role for role in roles) + body


def elements(kind: int, items: Sequence[Any]) -> bytes:
    """The elements of an array; strings may be given as bytes that are no UTF-8."""
    if kind in (STRING, BYTES):
        parts = [item.encode() if isinstance(item, str) else item for item in items]
        ends = [sum(map(len, parts[: number + 1])) for number in range(len(parts))]
        return struct.pack(f"<I{len(parts)}I", sum(map(len, parts)), *ends) + b"".join(parts)
    return struct.pack(f"<{len(items)}{'_?qQd'[kind]}", *items)


def value(kind: int, item: Any) -> bytes:
    """A value with its type; an array is given as (element type, elements)."""
    if kind == ARRAY:
        return struct.pack("<BBI", ARRAY, item[0], len(item[1])) + elements(*item)
    if kind in (STRING, BYTES):
        data = item.encode() if isinstance(item, str) else item
        return struct.pack("<BI", kind, len(data)) + data
    return bytes([kind]) + elements(kind, [item])


def pattern(length: int, seed: int) -> bytes:
    """Bytes without a period that matters."""
    return bytes((number * number * 7 + number * 37 + seed) % 251 for number in range(length))


class Draft:
    """A file as lists that can be bent before `build` puts it together; counts follow the lists unless overridden."""

    def __init__(self) -> None:
        self.header = bytearray(struct.pack("<8sHHIII40x", b"\x89GGQ\r\n\x1a\n", 1, 0, 0x01020304, 64, 0))
        self.data = bytearray(64)
        self.metadata: list[bytes] = []
        self.schemes: list[bytes] = []
        self.names: list[str | bytes] = []
        self.records: list[bytes] = []
        self.segments: list[list[Any]] = []
        self.columns: list[bytes] = []
        self.assets: list[str | bytes] = []
        self.asset_ranges: list[list[Any]] = []
        self.retired: list[list[Any]] = []
        self.counts: dict[int, int] = {}
        self.extra = b""
        self.raw_index: bytes | None = None
        self.footer: dict[str, Any] = {}
        self.after_index = b""

    def put(self, data: bytes) -> list[Any]:
        """Places bytes at the next multiple of 64 and returns their range."""
        self.data += bytes(-len(self.data) % 64)
        offset = len(self.data)
        self.data += data
        return [offset, len(data), blake3(data).digest()]

    def entry(self, key: str | bytes, kind: int, item: Any) -> None:
        """Adds metadata."""
        self.raw_entry(key, value(kind, item))

    def raw_entry(self, key: str | bytes, payload: bytes) -> None:
        """Adds metadata whose value is given as its bytes."""
        data = key.encode() if isinstance(key, str) else key
        self.metadata.append(struct.pack("<H", len(data)) + data + payload)

    def scheme(self, raw: bytes) -> int:
        """Adds a scheme and returns its number."""
        self.schemes.append(struct.pack("<H", len(raw)) + raw)
        return len(self.schemes) - 1

    def tensor(self, name: str | bytes, shape: Sequence[int], scheme: int, parts: Sequence[bytes]) -> None:
        """Adds a tensor and its data."""
        self.names.append(name)
        self.records.append(record(scheme, shape))
        self.segments += [self.put(part) for part in parts]

    def attribute(self, key: str, kind: int, items: Mapping[int, Any]) -> None:
        """Adds a column of attributes by tensor number."""
        head = struct.pack("<H", len(key)) + key.encode() + struct.pack("<BI", kind, len(items))
        self.columns.append(head + struct.pack(f"<{len(items)}I", *items) + elements(kind, list(items.values())))

    def asset(self, name: str | bytes, data: bytes) -> None:
        """Adds an asset."""
        self.assets.append(name)
        self.asset_ranges.append(self.put(data))

    def index(self) -> bytes:
        """The index as bytes."""
        tables: tuple[list[Any], ...] = (self.metadata, self.schemes, self.names, self.segments)
        counts = [*map(len, (*tables, self.columns, self.assets, self.retired)), 0]
        for number, count in self.counts.items():
            counts[number] = count
        parts = [struct.pack("<8I", *counts), *self.metadata, *self.schemes, elements(STRING, self.names)]
        parts += [*self.records, *map(pack_range, self.segments), *self.columns, elements(STRING, self.assets)]
        parts += map(pack_range, self.asset_ranges + self.retired)
        return b"".join(parts) + self.extra

    def build(self) -> bytes:
        """The file."""
        self.data[:64] = self.header
        index = self.index() if self.raw_index is None else self.raw_index
        self.data += bytes(-len(self.data) % 64)
        offset = len(self.data)
        body = self.data + index + (self.after_index or bytes(-len(index) % 64))
        field: dict[str, Any] = {
            "magic": b"\x89GGQEND\n",
            "offset": offset,
            "length": len(index),
            "digest": blake3(index).digest(),
        }
        field |= {"reserved": 0, **self.footer}
        crc = field.pop("checksum", 0)
        footer = struct.pack("<8sQQ32sI", *field.values())
        return bytes(body + footer + struct.pack("<I", zlib.crc32(self.header + footer) ^ crc))

    def edit(self) -> bytes:
        """Builds the file, then retires its index and footer, so that another `build` is an edit of it."""
        start = len(self.data) + -len(self.data) % 64
        whole = self.build()
        self.data[:] = whole
        self.retired.append([start, len(whole) - start, blake3(whole[start:]).digest()])
        return whole


def record(scheme: int, shape: Sequence[int], *, dimensions: int | None = None, reserved: bytes = bytes(3)) -> bytes:
    """A tensor's record."""
    sizes = [*shape, *[0] * (8 - len(shape))]
    return struct.pack("<IB3s8Q", scheme, len(shape) if dimensions is None else dimensions, reserved, *sizes)


def pack_range(item: Sequence[Any]) -> bytes:
    """A range as its 48 bytes."""
    return struct.pack("<QQ32s", *item)
