"""Typed values as bytes: what metadata and attributes are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from struct import pack, unpack_from
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt

from ggq.format.native.cursor import Cursor, refuse
from ggq.format.native.layout import MAX_INDEX_BYTES

Scalar = bool | int | float | str | bytes
Value = Scalar | Sequence[Any]

BOOL, I64, U64, F64, STRING, BYTES, ARRAY = range(1, 8)
TYPES = {BOOL: "bool", I64: "i64", U64: "u64", F64: "f64", STRING: "string", BYTES: "bytes", ARRAY: "array"}
"""Type numbers and their names, as spec/container.md has them."""

_NUMBERS = {I64: "<i8", U64: "<u8", F64: "<f8"}
_PACK = {I64: "<q", U64: "<Q", F64: "<d"}


class LazyArray(Sequence[Any]):
    """An array of strings or byte strings that decodes an element when it is asked for."""

    __slots__ = ("_blob", "_ends", "_text")

    def __init__(self, blob: memoryview, ends: npt.NDArray[np.uint32], *, text: bool) -> None:
        self._blob, self._ends, self._text = blob, ends, text

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str | bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[str | bytes]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        count = len(self._ends)
        if not -count <= index < count:
            raise IndexError(index)
        index %= count
        part = self._blob[int(self._ends[index - 1]) if index else 0 : int(self._ends[index])]
        return str(part, "utf-8") if self._text else bytes(part)

    def __iter__(self) -> Iterator[str | bytes]:
        start, text = 0, self._text
        for end in self._ends.tolist():
            part = self._blob[start:end]
            yield str(part, "utf-8") if text else bytes(part)
            start = end

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (LazyArray, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(repr(item) for item in self[:3])
        return f"[{shown}{', ...' if len(self) > 3 else ''}] ({len(self)})"

    def tolist(self) -> list[str] | list[bytes]:
        """All elements, decoded."""
        blob = bytes(self._blob)
        if self._text and blob.isascii():
            text, ends = blob.decode("ascii"), self._ends.tolist()
            return [text[start:end] for start, end in zip([0, *ends], ends)]
        return cast("list[str] | list[bytes]", list(self))


def encode_value(value: Value | npt.NDArray[Any], where: str) -> bytes:
    """A value as its type byte and payload.

    Args:
        value: A bool, int of 64 bits, float, string, byte string, or a list of one kind of these.
        where: What the value belongs to, for the error.

    Raises:
        FormatError: The value has no place in the format: a NaN, an integer beyond 64 bits, mixed kinds, another type.
    """
    if isinstance(value, (LazyArray, list, tuple, np.ndarray)):
        items = value.tolist() if isinstance(value, (LazyArray, np.ndarray)) else list(value)
        kind = array_kind(items, where)
        return pack("<BBI", ARRAY, kind, len(items)) + encode_elements(items, kind, where)
    kind = scalar_kind(value, where)
    if kind in (STRING, BYTES):
        data = _to_bytes(value, where)
        _check_size(len(data), where)
        return pack("<BI", kind, len(data)) + data
    return pack("<B", kind) + encode_elements([value], kind, where)


def scalar_kind(value: object, where: str) -> int:
    """The type number of a scalar."""
    if isinstance(value, (bool, np.bool_)):
        return BOOL
    if isinstance(value, (int, np.integer)):
        if not -(1 << 63) <= int(value) < 1 << 64:
            raise refuse("C-31", f"the integer {value} does not fit in 64 bits", where)
        return I64 if int(value) < 1 << 63 else U64
    if isinstance(value, (float, np.floating)):
        return F64
    if isinstance(value, str):
        return STRING
    if isinstance(value, (bytes, bytearray, memoryview)):
        return BYTES
    raise refuse("C-31", f"a value of type {type(value).__name__} cannot be stored", where)


def array_kind(items: list[Any], where: str) -> int:
    """The one type number of an array's elements; an empty array counts as i64."""
    kinds = {scalar_kind(item, where) for item in items} or {I64}
    if kinds == {I64, U64} and all(int(item) >= 0 for item in items):
        return U64
    if len(kinds) > 1:
        names = ", ".join(sorted(TYPES[kind] for kind in kinds))
        raise refuse("C-31", f"an array has elements of one type, found {names}", where)
    return kinds.pop()


def encode_elements(items: Sequence[Any], kind: int, where: str) -> bytes:
    """Elements of one type as an array's payload, without type and count."""
    if kind == BOOL:
        return bytes(bool(item) for item in items)
    if kind in _NUMBERS:
        if kind == F64 and any(math.isnan(item) for item in items):
            raise refuse("C-34", "a NaN cannot be stored", where)
        return np.array(items, dtype=_NUMBERS[kind]).tobytes()
    parts = [_to_bytes(item, where) for item in items]
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    _check_size(int(ends[-1]) if len(ends) else 0, where)
    blob = b"".join(parts)
    return pack("<I", len(blob)) + ends.astype("<u4").tobytes() + blob


def _check_size(size: int, where: str) -> None:
    if size > MAX_INDEX_BYTES:  # so it fits the field of four bytes too
        raise refuse("C-21", f"{size} bytes of strings, an index has at most {MAX_INDEX_BYTES}", where)


def _to_bytes(item: Any, where: str) -> bytes:
    if not isinstance(item, str):
        return bytes(item)
    try:
        return item.encode("utf-8")
    except UnicodeEncodeError:
        raise refuse("C-33", "a string holds a lone surrogate, which is not Unicode", where) from None


def skip_value(cursor: Cursor, where: str) -> None:
    """Steps over one value and checks it whole; raises FormatError where a rule is broken."""
    kind = cursor.u8(f"the type of {where}")
    if kind == ARRAY:
        kind = cursor.u8(f"the element type of {where}")
        if kind not in TYPES or kind == ARRAY:
            raise refuse("C-31", f"element type {kind}, allowed are 1 to 6", where)
        skip_elements(cursor, kind, cursor.u32(f"the count of {where}"), where)
    elif kind in (STRING, BYTES):
        text = cursor.bytes(cursor.u32(f"the length of {where}"), where)
        if kind == STRING:
            check_utf8(text, where)
    elif kind in TYPES:
        skip_elements(cursor, kind, 1, where)
    else:
        raise refuse("C-31", f"value type {kind}, allowed are 1 to 7", where)


def skip_elements(cursor: Cursor, kind: int, count: int, where: str) -> None:
    """Steps over an array's payload and checks it, without a Python step per element."""
    if kind in (STRING, BYTES):
        size = cursor.u32(f"the blob length of {where}")
        ends = _array(cursor.data, "<u4", count, cursor.take(4 * count, where))
        blob = cursor.bytes(size, where)
        _check_ends(ends, blob, where, text=kind == STRING)
        return
    start = cursor.take(count * (1 if kind == BOOL else 8), where)
    if kind == BOOL and count:
        largest = max(cursor.data[start : start + count])
        if largest > 1:
            raise refuse("C-32", f"a bool of {largest}, allowed are 0 and 1", where)
    if kind == F64 and np.isnan(_array(cursor.data, "<f8", count, start)).any():
        raise refuse("C-34", "a float is a NaN", where)


def _check_ends(ends: npt.NDArray[Any], blob: bytes, where: str, *, text: bool) -> None:
    last = int(ends[-1]) if len(ends) else 0
    if last != len(blob):
        raise refuse("C-35", f"the last string ends at {last}, the blob has {len(blob)} bytes", where)
    if (ends[1:] < ends[:-1]).any():
        raise refuse("C-35", "the ends of the strings decrease", where)
    if not text or blob.isascii():
        return
    check_utf8(blob, where)
    starts = ends[:-1]
    first = np.frombuffer(blob, np.uint8)[starts[starts < len(blob)]]
    if ((first & 0xC0) == 0x80).any():
        raise refuse("C-33", "a string begins in the middle of a UTF-8 character", where)


def check_utf8(data: bytes, where: str) -> str:
    """The text of `data`, which must be UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refuse("C-33", f"a string is not UTF-8 at its byte {error.start}", where) from None


def decode_value(data: bytes, start: int) -> Value:
    """The value whose type byte lies at `start`, in bytes that `skip_value` has checked."""
    kind = data[start]
    if kind == ARRAY:
        elements, count = unpack_from("<BI", data, start + 1)
        items = decode_elements(data, start + 6, elements, count)
        return items if isinstance(items, LazyArray) else items.tolist()
    if kind in (STRING, BYTES):
        (size,) = unpack_from("<I", data, start + 1)
        part = data[start + 5 : start + 5 + size]
        return part.decode("utf-8") if kind == STRING else part
    if kind == BOOL:
        return data[start + 1] == 1
    return cast(Scalar, unpack_from(_PACK[kind], data, start + 1)[0])


def decode_elements(data: bytes, start: int, kind: int, count: int) -> LazyArray | npt.NDArray[Any]:
    """An array's elements, from a payload at `start` that `skip_elements` has checked; numbers and bools as a view."""
    if kind in (STRING, BYTES):
        (size,) = unpack_from("<I", data, start)
        blob = start + 4 + 4 * count
        ends = _array(data, "<u4", count, start + 4)
        return LazyArray(memoryview(data)[blob : blob + size], ends, text=kind == STRING)
    return _array(data, "?" if kind == BOOL else _NUMBERS[kind], count, start)


def _array(data: bytes, dtype: str, count: int, start: int) -> npt.NDArray[Any]:
    return np.frombuffer(data, dtype, count, start) if count else np.zeros(0, dtype)
