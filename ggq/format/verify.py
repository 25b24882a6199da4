"""Reading every byte of a file against its digests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from blake3 import blake3

from ggq.errors import GGQError
from ggq.format.coverage import index_roles, owner
from ggq.format.descriptor import Descriptor
from ggq.format.layout import FOOTER_BYTES, padding

if TYPE_CHECKING:
    from ggq.format.reader import Reader

_CHUNK = 1 << 24
_EXPONENTS = {"f16": ("<u2", 0x7C00), "bf16": ("<u2", 0x7F80), "f32": ("<u4", 0x7F800000)}


class Problem(NamedTuple):
    """Something that verify found: the tensor it lies in or None, the place in the file, and what is wrong."""

    tensor: str | None
    where: str
    text: str


def verify(reader: Reader, progress: Callable[[int, int], Any] | None = None) -> list[Problem]:
    """Reads every byte after the header of an open file; see `Reader.verify`."""
    problems: list[Problem] = []
    index, firsts = reader.index, reader.firsts
    digests = np.concatenate([index.segments["digest"], index.assets["digest"], index.retired["digest"]])
    buffer = memoryview(bytearray(min(_CHUNK, reader.size)))
    try:
        for number, start, length in reader.layout.tolist():
            tensor, descriptor, role = _tensor_of(reader, number)
            where = f"{owner(index, firsts, number)} (bytes {start} to {start + length})"
            check = _value_check(descriptor, role)
            digest, trouble = _read_range(reader, start, length, buffer, check)
            if digest != digests[number].tobytes():
                problems.append(Problem(tensor, where, "the bytes do not fit their digest (C-70)"))
            elif trouble:
                problems.append(Problem(tensor, where, trouble))
            problems += _check_zero(reader, start + length, padding(start + length))
            if progress is not None:
                progress(start + length, reader.size)
        end = reader.footer.index_offset + reader.footer.index_length
        problems += _check_zero(reader, end, reader.footer.position - end)
    except GGQError as error:  # the file became shorter meanwhile
        problems.append(Problem(None, error.where or "file", error.problem))
    if reader.trailing:
        text = f"{reader.trailing} bytes after the last whole footer, as an interrupted edit leaves them (C-16)"
        problems.append(Problem(None, f"byte {reader.footer.position + FOOTER_BYTES}", text))
    if progress is not None:
        progress(reader.size, reader.size)
    return problems


def _tensor_of(reader: Reader, number: int) -> tuple[str | None, Descriptor | None, str]:
    """Name, scheme and role that a range belongs to; no name for assets and retired ranges."""
    if number >= len(reader.index.segments):
        return None, None, ""
    tensor = int(np.searchsorted(reader.firsts, number, side="right")) - 1
    descriptor = reader.index.descriptors[int(reader.index.tensors[tensor]["scheme"])]
    return reader.index.names[tensor], descriptor, index_roles(reader.index, tensor)[number - reader.firsts[tensor]]


def _value_check(descriptor: Descriptor | None, role: str) -> Callable[[memoryview], str | None] | None:
    """A test of the numbers themselves, for roles whose bytes can be impossible."""
    scheme = descriptor.scheme if descriptor is not None else None
    if scheme is None:
        return None
    if role == "scales":
        dtype, exponent = _EXPONENTS[scheme.scale]

        def finite(data: memoryview) -> str | None:
            bad = (np.frombuffer(data, dtype) & exponent) == exponent
            return "a scale is infinite or not a number (C-71)" if bad.any() else None

        return finite
    if role == "zeros" and scheme.bits < 8:

        def small(data: memoryview) -> str | None:
            largest = int(np.frombuffer(data, np.uint8).max())
            return f"a zero-point of {largest} for {scheme.bits} bits (C-71)" if largest >> scheme.bits else None

        return small
    return None


def _read_range(
    reader: Reader,
    start: int,
    length: int,
    buffer: memoryview,
    check: Callable[[memoryview], str | None] | None,
) -> tuple[bytes, str | None]:
    """Digest of a range, and the first thing that `check` has against its numbers."""
    hasher, trouble = blake3(max_threads=blake3.AUTO if length >= 1 << 20 else 1), None
    for offset in range(start, start + length, len(buffer)):
        part = buffer[: min(len(buffer), start + length - offset)]
        reader.read_into(offset, part)
        hasher.update(part)
        if check is not None and trouble is None:
            trouble = check(part)
    return hasher.digest(), trouble


def _check_zero(reader: Reader, start: int, length: int) -> list[Problem]:
    if not length or not reader.read_at(start, length).strip(b"\0"):
        return []
    return [Problem(None, f"padding at byte {start}", "padding is not zero (C-64)")]
