"""Reading every byte of a file against its digests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ggq.errors import GGQError
from ggq.format.digests import hasher
from ggq.format.native.coverage import owner
from ggq.format.native.layout import FOOTER_BYTES, padding

if TYPE_CHECKING:
    from ggq.format.native.reader import Reader

_CHUNK = 1 << 24


class Problem(NamedTuple):
    """Something that verify found: the tensor it lies in or None, the place in the file, and what is wrong."""

    tensor: str | None
    where: str
    text: str


def verify(reader: Reader, progress: Callable[[int, int], Any] | None = None) -> list[Problem]:
    """Read every byte after the header of an open file and compare it with its digest.

    Args:
        reader: The open file.
        progress: Called with the bytes done and the bytes of the file.

    Returns:
        What is wrong, each with the tensor that it lies in; empty when all is well.
    """
    problems: list[Problem] = []
    index, firsts = reader.index, reader.firsts
    digests = np.concatenate([index.segments["digest"], index.assets["digest"], index.retired["digest"]])
    buffer = memoryview(bytearray(min(_CHUNK, reader.size)))
    try:
        for number, start, length in reader.layout.tolist():
            if _read_digest(reader, start, length, buffer) != digests[number].tobytes():
                where = f"{owner(index, firsts, number)} (bytes {start} to {start + length})"
                text = "the bytes do not fit their digest (C-70)"
                problems.append(Problem(_tensor_of(reader, number), where, text))
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


def _tensor_of(reader: Reader, number: int) -> str | None:
    """The name of the tensor that a range belongs to; None for assets and retired ranges."""
    if number >= len(reader.index.segments):
        return None
    return reader.index.names[int(np.searchsorted(reader.firsts, number, side="right")) - 1]


def _read_digest(reader: Reader, start: int, length: int, buffer: memoryview) -> bytes:
    """The digest of a range, read piece by piece: a map would end the process if the file became shorter."""
    state = hasher(length)
    for offset in range(start, start + length, len(buffer)):
        part = buffer[: min(len(buffer), start + length - offset)]
        reader.read_into(offset, part)
        state.update(part)
    return state.digest()


def _check_zero(reader: Reader, start: int, length: int) -> list[Problem]:
    if not length or not reader.read_at(start, length).strip(b"\0"):
        return []
    return [Problem(None, f"padding at byte {start}", "padding is not zero (C-64)")]
