"""Importance matrices of llama.cpp: mean squares of the inputs of each matrix, read and written.

Two forms are read: GGUF files of the type "imatrix" (sums of squares and counts by tensor), which are also written, and
the older binary form (count of entries; of each a name, a number of calls and values times that number).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggq.errors import FormatError, UsageError
from ggq.format.gguf.kind import is_gguf
from ggq.format.gguf.reader import GGUFReader
from ggq.format.gguf.writer import GGUFTensor, write_gguf
from ggq.format.paths import open_regular, os_error
from ggq.models.fields import shown

Values = NDArray[np.float32]

SUMS, COUNTS = ".in_sum2", ".counts"

MOST_BYTES = 1 << 30
"""The largest file of the older form that is read."""

MOST_NAME = 255


@dataclass(frozen=True, eq=False)
class Imatrix:
    """What is known of the inputs of matrices.

    Args:
        means: Mean squares by the name of a matrix, float32 (columns,), or (experts, columns).
        counts: How many inputs each has seen.
        datasets: The texts.
        chunks: How many windows of them.
        context: Tokens of a window.
    """

    means: Mapping[str, Values]
    counts: Mapping[str, int]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    context: int = 0
    path: str = field(default="", compare=False)

    def of(self, name: str, columns: int) -> Values | None:
        """What errors count by column of a matrix; None where nothing is known.

        Raises:
            UsageError: It is of another model.
        """
        found = self.means.get(name)
        if found is None:
            return None
        found = np.asarray(found.reshape(-1, found.shape[-1]).mean(0), np.float32)
        if len(found) != columns:
            problem = f"{len(found)} columns found, the model's matrix has {columns}"
            raise UsageError(problem, path=self.path, where=name)
        return found


def read_imatrix(path: str | os.PathLike[str]) -> Imatrix:
    """Read an importance matrix.

    Raises:
        FormatError: It is none, or damaged.
        GGQError: It cannot be read.
    """
    return _read_new(os.fspath(path)) if is_gguf(path) else _read_old(os.fspath(path))


def write_imatrix(path: str | os.PathLike[str], made: Imatrix, *, force: bool = False) -> None:
    """Write an importance matrix as a GGUF file.

    Raises:
        UsageError: The place is taken.
    """
    keys = {
        "general.type": "imatrix",
        "imatrix.datasets": list(made.datasets),
        "imatrix.chunk_count": made.chunks,
        "imatrix.chunk_size": made.context,
    }
    tensors = []
    for name, means in sorted(made.means.items()):
        count = max(1, made.counts[name])
        rows = np.atleast_2d(means).astype(np.float32)
        parts = {SUMS: rows * np.float32(count), COUNTS: np.full((len(rows), 1), count, np.float32)}
        for end, values in parts.items():
            raw = np.ascontiguousarray(values, "<f4").view(np.uint8)
            tensors.append(GGUFTensor(name + end, values.shape, 0, lambda raw=raw: iter([raw])))  # type: ignore[misc]
    write_gguf(path, keys, tensors, force=force)


def _read_new(path: str) -> Imatrix:
    with GGUFReader(path) as reader:
        kind = reader.metadata.get("general.type")
        if kind != "imatrix":
            problem = f"{shown(kind)} found, imatrix expected" if kind is not None else "no importance matrix"
            raise FormatError(problem, path=path, where="general.type")
        means, counts = dict[str, Values](), dict[str, int]()
        for full, tensor in reader.tensors.items():
            if not full.endswith(SUMS):
                continue
            name = full.removesuffix(SUMS)
            seen = reader.tensors.get(name + COUNTS)
            if seen is None or tensor.type != 0 or seen.type != 0 or not 0 < len(tensor.shape) < 3:
                raise FormatError("sums without counts, or not f32", path=path, where=f"tensor {full[:80]}")
            sums = reader.raw(full).view("<f4").reshape(-1, tensor.shape[-1])
            number = reader.raw(name + COUNTS).view("<f4").reshape(-1, 1)
            if len(number) != len(sums):
                raise FormatError(f"{len(number)} counts of {len(sums)} rows", path=path, where=f"tensor {full[:80]}")
            _check(np.concatenate([sums.ravel(), number.ravel()]), name, path)
            found = (sums / np.maximum(number, 1)).astype(np.float32)
            means[name] = found[0] if len(found) == 1 else found
            counts[name] = int(min(number.max(initial=0), 2**62))
        sets = reader.metadata.get("imatrix.datasets")
        sizes = (reader.metadata.get(f"imatrix.{key}") for key in ("chunk_count", "chunk_size"))
        chunks, context = (size if isinstance(size, int) and not isinstance(size, bool) else 0 for size in sizes)
    names = tuple(sets) if isinstance(sets, Sequence) and not isinstance(sets, str) else ()
    return Imatrix(means, counts, names, chunks, context, path)


def _read_old(path: str) -> Imatrix:
    data = _whole(path)
    cursor = _Cursor(data, path)
    entries = cursor.number("the number of matrices", len(data) // 12)
    if not entries:
        raise FormatError("no importance matrix: it has no entries", path=path)
    means, counts = dict[str, Values](), dict[str, int]()
    for i in range(entries):
        raw = cursor.take(cursor.number(f"entry {i}: the length of a name", MOST_NAME), f"entry {i}")
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise FormatError("a name that is no UTF-8", path=path, where=f"entry {i}") from None
        if name in means:
            raise FormatError("a name that comes again", path=path, where=f"entry {name[:80]}")
        calls = cursor.number(f"entry {name[:80]}: calls", (1 << 31) - 1)
        size = cursor.number(f"entry {name[:80]}: values", len(data) // 4)
        values = np.frombuffer(cursor.take(4 * size, f"entry {name[:80]}"), "<f4").astype(np.float32)
        if not size:
            raise FormatError("no values", path=path, where=f"entry {name[:80]}")
        _check(values, name, path)
        means[name], counts[name] = values / np.float32(max(1, calls)), calls
    chunks, sets = 0, tuple[str, ...]()
    if cursor.left >= 8:
        chunks = cursor.number("the number of windows", (1 << 31) - 1)
        text = cursor.take(cursor.number("the length of a text's name", cursor.left), "the text's name")
        sets = (text.decode(errors="replace"),)
    return Imatrix(means, counts, sets, chunks, 0, path)


def _whole(path: str) -> bytes:
    with open_regular(path) as file:
        try:
            data = bytes(file.read(MOST_BYTES + 1))
        except OSError as error:
            raise os_error(error, path, "read") from None
    if len(data) > MOST_BYTES:
        raise FormatError(f"more than {MOST_BYTES} bytes", path=path)
    return data


class _Cursor:
    """Reads the older form, whose numbers are int32."""

    def __init__(self, data: bytes, path: str) -> None:
        self._data, self._path, self._at = data, path, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int, what: str) -> bytes:
        if count > self.left:
            problem = f"no importance matrix, or cut short: {count} bytes wanted, {self.left} left"
            raise FormatError(problem, path=self._path, where=f"{what}, offset {self._at}")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, what: str, most: int) -> int:
        (found,) = struct.unpack("<i", self.take(4, what))
        if not 0 <= found <= most:
            problem = f"no importance matrix: {what} is {found}, allowed are 0 to {most}"
            raise FormatError(problem, path=self._path, where=f"offset {self._at - 4}")
        return int(found)


def _check(values: Values, name: str, path: str) -> None:
    if not (np.isfinite(values) & (values >= 0)).all():
        raise FormatError("NaN, infinite or negative values", path=path, where=f"entry {name[:80]}")


def default_name(path: str | os.PathLike[str]) -> str:
    """What a text is called in a file."""
    return Path(path).name
