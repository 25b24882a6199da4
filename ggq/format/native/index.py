"""The index: tables of metadata, schemes, tensors, assets and retired ranges, as bytes and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from struct import pack, unpack_from
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.format.names import check_key, check_names, key_text
from ggq.format.native import values
from ggq.format.native.cursor import Cursor, refuse
from ggq.format.native.descriptor import Descriptor, decode_descriptor
from ggq.format.native.layout import (
    COUNTS,
    COUNTS_BYTES,
    LIMITS,
    MAX_DIMENSIONS,
    MAX_INDEX_BYTES,
    MAX_KEY_BYTES,
    RANGE,
    TENSOR,
)

ATTRIBUTE_TYPES = (values.BOOL, values.I64, values.U64, values.F64, values.STRING)


@dataclass(frozen=True)
class Column:
    """One attribute of some tensors: key, type, the tensors' numbers in ascending order, and where the values lie."""

    key: str
    kind: int
    tensors: npt.NDArray[Any]
    start: int


@dataclass
class Index:
    """A parsed index; arrays are views of its bytes.

    `metadata` gives the start and end of each value in `data`; `segments` are those of all tensors in order.
    """

    data: bytes
    metadata: dict[str, tuple[int, int]] = field(default_factory=dict)
    descriptors: list[Descriptor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    tensors: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0, TENSOR))
    tensors_start: int = 0
    segments: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0, RANGE))
    columns: list[Column] = field(default_factory=list)
    asset_names: list[str] = field(default_factory=list)
    assets: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0, RANGE))
    retired: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0, RANGE))


@dataclass(frozen=True)
class TensorParts:
    """A tensor on its way into an index: `scheme` is a number in the table, `segments` are (offset, length, digest)."""

    name: str
    shape: tuple[int, ...]
    scheme: int
    segments: Sequence[tuple[int, int, bytes]]
    attributes: Mapping[str, values.Scalar]


def parse_index(data: bytes, *, newer: bool) -> Index:
    """Reads an index and checks all that does not need the rest of the file.

    Args:
        data: The whole index.
        newer: The file is of a later minor version, which may append sections that are passed over.

    Raises:
        FormatError: A rule of spec/container.md is broken.
    """
    cursor = Cursor(data)
    start = cursor.take(COUNTS_BYTES, "the table of counts")
    counts = dict(zip((item.name for item in COUNTS), unpack_from("<8I", data, start)))
    if counts.pop("reserved"):
        raise refuse("C-22", "the reserved count is not zero", "index byte 28")
    for name, count in counts.items():
        if count > LIMITS[name]:
            raise refuse("C-22", f"{count} entries of {name}, allowed are {LIMITS[name]}", "index byte 0")
    index = Index(data)
    _parse_metadata(cursor, counts["metadata"], index)
    for number in range(counts["schemes"]):
        raw = cursor.bytes(cursor.u16("the length of a scheme"), f"scheme {number}")
        index.descriptors.append(decode_descriptor(raw, f"scheme {number}"))
    index.names = _parse_names(cursor, counts["tensors"], "tensor")
    index.tensors_start = cursor.position
    index.tensors = _parse_table(cursor, counts["tensors"], TENSOR, "the tensors")
    index.segments = _parse_table(cursor, counts["segments"], RANGE, "the segments")
    _parse_columns(cursor, counts["columns"], index)
    index.asset_names = _parse_names(cursor, counts["assets"], "asset")
    index.assets = _parse_table(cursor, counts["assets"], RANGE, "the assets")
    index.retired = _parse_table(cursor, counts["retired"], RANGE, "the retired ranges")
    if cursor.remaining and not newer:
        problem = f"{cursor.remaining} bytes after the last section of the index"
        raise refuse("C-24", problem, f"index byte {cursor.position}")
    return index


def _parse_key(cursor: Cursor) -> str:
    size = cursor.u16("the length of a key")
    at = f"index byte {cursor.position}"
    if not 1 <= size <= MAX_KEY_BYTES:
        raise refuse("C-30", f"a key of {size} bytes, allowed are 1 to {MAX_KEY_BYTES}", at)
    return key_text(cursor.bytes(size, "a key"), at)


def _parse_metadata(cursor: Cursor, count: int, index: Index) -> None:
    for _ in range(count):
        key = _parse_key(cursor)
        if key in index.metadata:
            raise refuse("C-30", "the key comes twice", f"metadata {key}")
        start = cursor.position
        values.skip_value(cursor, f"metadata {key}")
        index.metadata[key] = (start, cursor.position)


def _parse_names(cursor: Cursor, count: int, what: str) -> list[str]:
    start = cursor.position
    values.skip_elements(cursor, values.STRING, count, f"the names of {what}s")
    names = values.decode_elements(cursor.data, start, values.STRING, count)
    assert isinstance(names, values.LazyArray)
    texts = [str(name) for name in names.tolist()]
    check_names(texts, what)
    return texts


def _parse_table(cursor: Cursor, count: int, dtype: np.dtype[Any], what: str) -> npt.NDArray[Any]:
    start = cursor.take(count * dtype.itemsize, what)
    return np.frombuffer(cursor.data, dtype, count, start) if count else np.zeros(0, dtype)


def _parse_columns(cursor: Cursor, count: int, index: Index) -> None:
    """Reads the attribute columns; a tensor has each key once, whatever the column's type."""
    seen: dict[str, list[npt.NDArray[Any]]] = {}
    for _ in range(count):
        key = _parse_key(cursor)
        where = f"attribute {key}"
        kind = cursor.u8(where)
        if kind not in ATTRIBUTE_TYPES:
            raise refuse("C-36", f"attribute type {kind}, allowed are 1 to 5", where)
        entries = cursor.u32(where)
        start = cursor.take(4 * entries, where)
        tensors = np.frombuffer(cursor.data, "<u4", entries, start) if entries else np.zeros(0, "<u4")
        if entries and (int(tensors[-1]) >= len(index.names) or (tensors[1:] <= tensors[:-1]).any()):
            raise refuse("C-36", "tensor numbers do not ascend or name no tensor", where)
        index.columns.append(Column(key, kind, tensors, cursor.position))
        values.skip_elements(cursor, kind, entries, where)
        seen.setdefault(key, []).append(tensors)
    for key, parts in seen.items():
        together = np.concatenate(parts)
        if len(parts) > 1 and len(np.unique(together)) != len(together):
            raise refuse("C-36", "a tensor has the attribute twice", f"attribute {key}")


def encode_index(
    metadata: Mapping[str, bytes],
    descriptors: Sequence[bytes],
    tensors: Sequence[TensorParts],
    assets: Mapping[str, tuple[int, int, bytes]],
    retired: Sequence[tuple[int, int, bytes]] = (),
) -> bytes:
    """An index as bytes; values in `metadata` are encoded already, descriptors are without their length.

    Raises:
        FormatError: A table or the whole is larger than the format allows.
    """
    columns = _gather_columns(tensors)
    ranges = [item for tensor in tensors for item in tensor.segments]
    tables = (metadata, descriptors, tensors, ranges, columns, assets, retired)
    counts = dict(zip(LIMITS, map(len, tables)))
    for name, count in counts.items():
        if count > LIMITS[name]:
            raise refuse("C-22", f"{count} entries of {name}, allowed are {LIMITS[name]}")
    parts = [pack("<8I", *counts.values(), 0)]
    parts += [_encode_key(key) + value for key, value in metadata.items()]
    parts += [pack("<H", len(raw)) + raw for raw in descriptors]
    parts.append(values.encode_elements([tensor.name for tensor in tensors], values.STRING, "tensors"))
    parts += [_encode_tensor(tensor) for tensor in tensors]
    parts += [encode_range(item) for item in ranges]
    for (key, kind), (numbers, items) in columns.items():
        parts.append(_encode_key(key) + pack("<BI", kind, len(numbers)) + np.array(numbers, "<u4").tobytes())
        parts.append(values.encode_elements(items, kind, f"attribute {key}"))
    parts.append(values.encode_elements(list(assets), values.STRING, "assets"))
    parts += [encode_range(item) for item in [*assets.values(), *retired]]
    index = b"".join(parts)
    if len(index) > MAX_INDEX_BYTES:
        raise refuse("C-14", f"an index of {len(index)} bytes, allowed are {MAX_INDEX_BYTES}")
    return index


def _gather_columns(tensors: Sequence[TensorParts]) -> dict[tuple[str, int], tuple[list[int], list[Any]]]:
    """Attributes by key and type, in order of first appearance."""
    columns: dict[tuple[str, int], tuple[list[int], list[Any]]] = {}
    for number, tensor in enumerate(tensors):
        for key, value in tensor.attributes.items():
            numbers, items = columns.setdefault((key, attribute_kind(key, value, tensor.name)), ([], []))
            numbers.append(number)
            items.append(value)
    return columns


def attribute_kind(key: str, value: values.Scalar, tensor: str) -> int:
    """The type number of an attribute's value; raises FormatError for what cannot be one."""
    check_key(key)
    kind = values.scalar_kind(value, f"tensor {tensor}, attribute {key}")
    if kind not in ATTRIBUTE_TYPES:
        raise refuse("C-36", "an attribute is a bool, integer, float or string", f"tensor {tensor}, attribute {key}")
    return kind


def _encode_key(key: str) -> bytes:
    check_key(key)
    return pack("<H", len(key)) + key.encode("ascii")


def _encode_tensor(tensor: TensorParts) -> bytes:
    padded = [*tensor.shape, *[0] * (MAX_DIMENSIONS - len(tensor.shape))]
    return pack("<IB3x8Q", tensor.scheme, len(tensor.shape), *padded)


def encode_range(item: tuple[int, int, bytes]) -> bytes:
    """A range as its 48 bytes."""
    offset, length, digest = item
    return pack("<QQ32s", offset, length, digest)
