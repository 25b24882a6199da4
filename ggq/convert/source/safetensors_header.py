"""Reading the header of a safetensors file, and refusing every one that its bytes do not bear out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from ggq.convert.source.json_input import load_object
from ggq.errors import FormatError
from ggq.format.identify import identify
from ggq.models.fields import shown

LENGTH_BYTES = 8
"""The header's length in front of it, little-endian."""

LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""

LONGEST_NAME = 1024
MOST_DIMENSIONS = 8

DTYPE_BITS = {
    name: bits
    for bits, names in {
        64: "F64 I64 U64 C64",
        32: "F32 I32 U32",
        16: "F16 BF16 I16 U16",
        8: "I8 U8 BOOL F8_E4M3 F8_E5M2 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
        6: "F6_E2M3 F6_E3M2",
        4: "F4",
    }.items()
    for name in names.split()
}
"""Bits of a number of each type that the safetensors format knows."""


@dataclass(frozen=True)
class SourceTensor:
    """Where a tensor of a checkpoint lies.

    Args:
        name: As the checkpoint has it.
        dtype: The safetensors name of its type.
        shape: Its dimensions; () for a single number.
        file: The safetensors file, its real path.
        offset: Of the tensor's first byte in that file.
        bytes: How many there are.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    bytes: int


@dataclass(frozen=True)
class SafetensorsFile:
    """A safetensors file by its header: where it lies, its size and time of change, the header's bytes, the tensors."""

    path: Path
    size: int
    modified: int
    header: bytes
    tensors: tuple[SourceTensor, ...]


def read_header(path: Path, shown_path: Path) -> SafetensorsFile:
    """Read and check a header.

    Args:
        path: A regular file.
        shown_path: The name that the user knows it by.

    Raises:
        FormatError: The file is no safetensors file or breaks a rule of the format.
    """
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        header = _header_bytes(file, state.st_size, shown_path)
    entries = load_object(header, shown_path, "header")
    data = LENGTH_BYTES + len(header)
    notes = entries.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise FormatError("an object of strings expected", path=shown_path, where="header: __metadata__")
    tensors = tuple(_tensor(name, entry, path, data, shown_path) for name, entry in entries.items())
    _check_ranges(tensors, data, state.st_size, shown_path)
    return SafetensorsFile(path, state.st_size, state.st_mtime_ns, header, tensors)


def _header_bytes(file: BinaryIO, size: int, path: Path) -> bytes:
    """The header's JSON text."""
    start = file.read(LENGTH_BYTES + 56)
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    text = start[LENGTH_BYTES : LENGTH_BYTES + 1]
    if size < LENGTH_BYTES + 2 or length < 2 or text != b"{":
        kind = identify(start) or (f"{size} bytes of something else" if size else "an empty file")
        raise FormatError(f"a safetensors file expected, found {kind}", path=path)
    if length > size - LENGTH_BYTES:
        raise FormatError(
            f"a header of {length} bytes is announced, {size - LENGTH_BYTES} are left",
            path=path,
            where="byte 0",
            fix="the file may be incomplete; download it again",
        )
    if length > LONGEST_HEADER:
        raise FormatError(
            f"a header of {length} bytes found, up to {LONGEST_HEADER} allowed", path=path, where="byte 0"
        )
    file.seek(LENGTH_BYTES)
    header = file.read(length)
    if len(header) != length:
        raise FormatError(f"{len(header)} of {length} bytes could be read", path=path, where="header")
    return header


def _tensor(name: str, entry: Any, file: Path, data: int, path: Path) -> SourceTensor:
    """One entry of the header; `data` is where the offsets count from."""

    def refuse(problem: str) -> FormatError:
        return FormatError(problem, path=path, where=f"tensor {shown(name)}")

    if not 1 <= len(name) <= LONGEST_NAME:
        raise refuse(f"a name of {len(name)} characters found, 1 to {LONGEST_NAME} allowed")
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):  # others mean nothing
        raise refuse("an object of dtype, shape and data_offsets expected")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise refuse(f"unknown dtype {shown(dtype)}; known: {', '.join(DTYPE_BITS)}")
    if not _naturals(shape) or len(shape) > MOST_DIMENSIONS:
        raise refuse(f"a shape of up to {MOST_DIMENSIONS} whole numbers from 0 on expected, found {_shown_list(shape)}")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise refuse(f"data_offsets of two ascending whole numbers expected, found {_shown_list(offsets)}")
    bits, count = prod(shape) * DTYPE_BITS[dtype], offsets[1] - offsets[0]
    if bits != 8 * count:
        raise refuse(f"shape {_shown_list(shape)} of {dtype} takes {-(-bits // 8)} bytes, data_offsets hold {count}")
    return SourceTensor(name, dtype, tuple(shape), file, data + offsets[0], count)


def _check_ranges(tensors: tuple[SourceTensor, ...], data: int, size: int, path: Path) -> None:
    """The tensors' bytes must follow each other from the header's end to the file's end."""
    ordered = sorted(tensors, key=lambda tensor: (tensor.offset, tensor.offset + tensor.bytes))
    if ordered and ordered[-1].offset + ordered[-1].bytes > size:
        last = ordered[-1]
        raise FormatError(
            f"bytes {last.offset} to {last.offset + last.bytes} are announced, the file has {size}",
            path=path,
            where=f"tensor {shown(last.name)}",
            fix="the file is incomplete; download it again",
        )
    if ordered and ordered[0].offset != data:
        raise FormatError(f"{ordered[0].offset - data} unused bytes before the first tensor", path=path)
    for before, after in pairwise(ordered):
        gap = after.offset - (before.offset + before.bytes)
        if gap:
            what = f"shares {-gap} bytes with" if gap < 0 else f"lies {gap} unused bytes behind"
            raise FormatError(f"{what} {shown(before.name)}", path=path, where=f"tensor {shown(after.name)}")
    end = ordered[-1].offset + ordered[-1].bytes if ordered else data
    if end != size:
        raise FormatError(f"{size - end} unused bytes at the end", path=path, where=f"byte {end}")


def _naturals(value: Any) -> bool:
    """Whether a value is a list of whole numbers from 0 to 2^63 - 1."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _shown_list(value: Any) -> str:
    if isinstance(value, list) and len(value) <= MOST_DIMENSIONS:
        return f"[{', '.join(shown(item) for item in value)}]"
    return shown(value)
