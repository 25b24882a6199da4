"""The header of a GGUF file: key-value pairs and the list of tensors, each bound checked before it is believed.

Nothing is decoded that nobody asks for: arrays are stepped over, and strings are looked at when they are wanted.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from math import prod
from typing import Any, NamedTuple, overload

import numpy as np

from ggq.errors import FormatError, UnsupportedError
from ggq.format.digests import digest_of
from ggq.format.gguf.kind import MAGIC
from ggq.format.gguf.types import TYPES, type_name

VERSIONS = (2, 3)

MOST_TENSORS, MOST_KEYS = 1 << 20, 1 << 16
LONGEST_KEY, LONGEST_NAME, MOST_DIMENSIONS = 65535, 255, 4
ALIGNMENTS = (8, 1 << 16)
"""The smallest and the largest alignment of data; it is a power of two."""

DEFAULT_ALIGNMENT = 32

STRING, ARRAY, BOOL = 8, 9, 7
NUMBERS: dict[int, tuple[str, str]] = {
    0: ("u8", "<u1"),
    1: ("i8", "<i1"),
    2: ("u16", "<u2"),
    3: ("i16", "<i2"),
    4: ("u32", "<u4"),
    5: ("i32", "<i4"),
    6: ("f32", "<f4"),
    7: ("bool", "<u1"),
    10: ("u64", "<u8"),
    11: ("i64", "<i8"),
    12: ("f64", "<f8"),
}
"""Types of values, but for strings and arrays: their names and how they are stored."""

_length = struct.Struct("<Q").unpack_from
_NAME = re.compile(r"[^\x00-\x1f\x7f]+")


class Value(NamedTuple):
    """Where a value lies.

    Args:
        kind: Number of its type; of its elements' for an array.
        start: Its first byte; that of the first element for an array.
        length: How many elements an array has; None for other values.
    """

    kind: int
    start: int
    length: int | None


class Listed(NamedTuple):
    """A tensor as the header lists it.

    Args:
        name: Its name.
        shape: Its dimensions, the columns last; the file has them in the other order.
        type: Number of its type.
        offset: Of its first byte, from where the data begins.
        bytes: How many there are; None for a type that this version does not know.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    bytes: int | None

    @property
    def type_name(self) -> str:
        """What its type is called."""
        return type_name(self.type)


class More(Exception):
    """More of the file must be read to go on."""


class Header:
    """What stands before the data.

    Args:
        data: The file's bytes from its beginning.
        path: For messages.
        size: Bytes of the file, where `data` is not all of it.

    Raises:
        More: The header goes on behind `data`, and the file does too.
        FormatError: It is no GGUF file, or breaks a rule of the format.
        UnsupportedError: A version that is not read, or big-endian.
    """

    def __init__(self, data: memoryview, path: str, size: int | None = None) -> None:
        self._data, self._path, self._at = data, path, 0
        self._size = len(data) if size is None else size
        self.version = self._version()
        self._at = 8
        tensors, keys = self._u64("number of tensors"), self._u64("number of keys")
        self._limit("tensors", tensors, min(MOST_TENSORS, self._size // 24))
        self._limit("keys", keys, min(MOST_KEYS, self._size // 13))
        self.values: dict[str, Value] = {}
        for _ in range(keys):
            self._pair()
        self.alignment = self._alignment()
        self.tensors: dict[str, Listed] = {}
        for _ in range(tensors):
            tensor = self._tensor()
            if tensor.name in self.tensors:
                raise self._refuse("the name comes twice", f"tensor {_shown(tensor.name)}")
            self.tensors[tensor.name] = tensor
        self._end = self._at
        self.data_start = -(-self._at // self.alignment) * self.alignment
        self._check_places()
        if self._size != len(data):
            self._data = memoryview(bytes(data[: self._at]))  # what lies behind is the tensors'

    def value(self, key: str) -> Any:
        """A value: a number, a bool, a str, a NumPy array or, of strings, `Strings`.

        Raises:
            FormatError: A string is no UTF-8, or a bool neither 0 nor 1; of an array, when its strings are asked for.
        """
        value = self.values[key]
        if value.kind == STRING:
            if value.length is None:
                return self._text(value.start, key)[0]
            return Strings(self, key)
        kind = NUMBERS[value.kind][1]
        found = np.frombuffer(self._data, kind, 1 if value.length is None else value.length, value.start)
        if value.kind == BOOL:
            if found.size and found.max() > 1:
                raise self._refuse(f"a bool of {found.max()}, 0 or 1 expected", f"key {_shown(key)}")
            found = found.astype(np.bool_)
        return found.copy() if value.length is not None else found[0].item()

    def strings(self, key: str) -> list[str]:
        """The elements of an array of strings.

        Raises:
            FormatError: One is no UTF-8.
        """
        value = self.values[key]
        texts, at = [], value.start
        for _ in range(value.length or 0):
            text, at = self._text(at, key)
            texts.append(text)
        return texts

    def digest(self) -> bytes:
        """BLAKE3 of the header's bytes."""
        return digest_of(self._data[: self._end])

    def kind(self, key: str) -> str:
        """The name of a value's type, such as "u32" or "array of string"."""
        value = self.values[key]
        name = "string" if value.kind == STRING else NUMBERS[value.kind][0]
        return name if value.length is None else f"array of {name}"

    def _version(self) -> int:
        data = self._data
        if bytes(data[:4]) != MAGIC:
            raise self._refuse("not a GGUF file", "byte 0")
        if len(data) < 24:
            raise self._refuse(f"{len(data)} bytes found, a header has 24 and more")
        version = struct.unpack_from("<I", data, 4)[0]
        if version & 0xFFFF == 0 and version != 0:
            raise UnsupportedError("a big-endian GGUF file", path=self._path, fix="convert it to little-endian first")
        if version not in VERSIONS:
            allowed = " and ".join(map(str, VERSIONS))
            raise UnsupportedError(f"GGUF version {version}; {allowed} can be read", path=self._path, where="byte 4")
        return int(version)

    def _pair(self) -> None:
        key, self._at = self._text(self._at, "a key", LONGEST_KEY)
        if not key or key in self.values:
            raise self._refuse("an empty key" if not key else f"the key {_shown(key)} comes twice", self._here)
        kind = self._u32(f"type of {_shown(key)}")
        count: int | None = None
        if kind == ARRAY:
            kind, count = self._u32(f"type of {_shown(key)}"), self._u64(f"length of {_shown(key)}")
            if kind == ARRAY:
                raise UnsupportedError("an array of arrays", path=self._path, where=f"key {_shown(key)}")
        if kind != STRING and kind not in NUMBERS:
            raise self._refuse(f"a value of unknown type {kind}", f"key {_shown(key)}")
        self.values[key] = Value(kind, self._at, count)
        if kind != STRING:
            size = np.dtype(NUMBERS[kind][1]).itemsize * (1 if count is None else count)
            self._step(size, f"key {_shown(key)}")
        else:
            self._skip_strings(1 if count is None else count, key)

    def _skip_strings(self, count: int, key: str) -> None:
        """Step over strings; there is no shorter way, as each tells where the next one begins."""
        self._limit(f"strings of {_shown(key)}", count, (self._size - self._at) // 8)
        data, at = self._data, self._at
        try:
            for _ in range(count):
                at += 8 + _length(data, at)[0]
        except (struct.error, OverflowError):  # it led behind the end
            at = max(at, len(data) + 1)
        if at > self._size or (at > len(data) and len(data) == self._size):
            raise self._refuse("a string goes on behind the end of the file", f"key {_shown(key)}")
        self._loaded(at)
        self._at = at

    def _tensor(self) -> Listed:
        name, self._at = self._text(self._at, "the name of a tensor", LONGEST_NAME)
        where = f"tensor {_shown(name)}"
        if not _NAME.fullmatch(name):
            raise self._refuse("a name that is empty or holds control characters", where)
        dimensions = self._u32(f"dimensions of {where}")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise self._refuse(f"{dimensions} dimensions found, 1 to {MOST_DIMENSIONS} allowed", where)
        shape = tuple(reversed([self._u64(f"a size of {where}") for _ in range(dimensions)]))
        if min(shape) < 1 or prod(shape) >= 1 << 62:
            raise self._refuse(f"shape {list(shape)} found, sizes of at least 1 expected", where)
        number, offset = self._u32(f"type of {where}"), self._u64(f"offset of {where}")
        if offset % self.alignment:
            raise self._refuse(f"its offset {offset} is no multiple of {self.alignment}", where)
        kind = TYPES.get(number)
        if kind is not None and shape[-1] % kind.numbers:
            raise self._refuse(f"rows of {shape[-1]} numbers, {kind.name} has blocks of {kind.numbers}", where)
        size = None if kind is None else prod(shape) // kind.numbers * kind.bytes
        return Listed(name, shape, number, offset, size)

    def _check_places(self) -> None:
        """Tensors follow each other: one that takes less or more than its type has is of a fork with other blocks."""
        ordered = sorted(self.tensors.values(), key=lambda tensor: tensor.offset)
        room = self._size - self.data_start
        ends = [tensor.offset for tensor in ordered[1:]] + [max(room, 0)]
        at = 0
        for tensor, end in zip(ordered, ends):
            where = f"tensor {_shown(tensor.name)}"
            if tensor.offset != at:
                raise self._refuse(f"begins at byte {tensor.offset} of the data, {at} expected", where)
            if tensor.bytes is None:
                at = end
                continue
            if tensor.offset + tensor.bytes > end:
                if end == max(room, 0):
                    problem = f"{tensor.bytes} bytes are announced, {end - tensor.offset} are left"
                    raise self._refuse(problem, where, "the file is incomplete; download it again")
                raise self._refuse(
                    f"{tensor.bytes} bytes of {tensor.type_name} expected, the next tensor begins after"
                    f" {end - tensor.offset}: another program's type of the same number, perhaps",
                    where,
                )
            at = -(-(tensor.offset + tensor.bytes) // self.alignment) * self.alignment

    def _alignment(self) -> int:
        key = "general.alignment"
        if key not in self.values:
            return DEFAULT_ALIGNMENT
        found = self.value(key)
        least, most = ALIGNMENTS
        if not isinstance(found, int) or not least <= found <= most or found & (found - 1):
            raise self._refuse(f"alignment {found!r:.40}, a power of two from {least} to {most} expected", f"key {key}")
        return found

    def _text(self, at: int, what: str, most: int | None = None) -> tuple[str, int]:
        """The string that begins at a byte, and where the next value begins."""
        if at + 8 > self._size:
            raise self._refuse(f"{what} lies behind the end of the file", f"byte {at}")
        self._loaded(at + 8)
        length = _length(self._data, at)[0]
        start = at + 8
        if length > self._size - start:
            raise self._refuse(f"{what}: {length} bytes are announced, {self._size - start} are left", f"byte {at}")
        if most is not None and length > most:
            raise self._refuse(f"{what}: {length} bytes found, up to {most} allowed", f"byte {at}")
        self._loaded(start + length)
        try:
            return str(self._data[start : start + length], "utf-8"), start + length
        except UnicodeDecodeError:
            raise self._refuse(f"{what}: no UTF-8", f"byte {start}") from None

    def _u32(self, what: str) -> int:
        return int(struct.unpack_from("<I", self._data, self._step(4, what))[0])

    def _u64(self, what: str) -> int:
        return int(_length(self._data, self._step(8, what))[0])

    def _step(self, count: int, what: str) -> int:
        at = self._at
        if count > self._size - at:
            raise self._refuse(f"{what} needs {count} bytes, {self._size - at} are left", f"byte {at}")
        self._loaded(at + count)
        self._at = at + count
        return at

    def _loaded(self, end: int) -> None:
        """Go on only where all bytes up to one are there."""
        if end > len(self._data):
            raise More

    def _limit(self, what: str, count: int, most: int) -> None:
        if count > most:
            raise self._refuse(f"{count} {what} announced, the file has room for {most}", self._here)

    @property
    def _here(self) -> str:
        return f"byte {self._at}"

    def _refuse(self, problem: str, where: str | None = None, fix: str | None = None) -> FormatError:
        return FormatError(problem, path=self._path, where=where, fix=fix)


class Strings(Sequence[str]):
    """An array of strings: how many there are is known, all are decoded when the first is asked for.

    Args:
        header: Where they stand.
        key: Theirs.
    """

    def __init__(self, header: Header, key: str) -> None:
        self._header, self._key = header, key

    @cached_property
    def _texts(self) -> list[str]:
        return self._header.strings(self._key)

    def __len__(self) -> int:
        return self._header.values[self._key].length or 0

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._texts[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def tolist(self) -> list[str]:
        """All of them, as of a NumPy array."""
        return list(self._texts)

    def __repr__(self) -> str:
        return repr(self._texts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._texts == list(other)


def _shown(text: str) -> str:
    return repr(text[:80])
