"""Header and footer: the frame that says what a file is and where its index lies."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack, unpack
from typing import NamedTuple
from zlib import crc32

import numpy as np

from ggq.errors import FormatError, UnsupportedError
from ggq.format.digests import digest_of
from ggq.format.identify import identify
from ggq.format.native.cursor import refuse
from ggq.format.native.layout import (
    ALIGNMENT,
    BYTE_ORDER,
    FOOTER_BYTES,
    FOOTER_MAGIC,
    FOOTER_SEARCH_BYTES,
    FOOTER_STRUCT,
    HEADER_BYTES,
    HEADER_STRUCT,
    MAGIC,
    MAJOR,
    MAX_INDEX_BYTES,
    MINOR,
    REQUIRED_FLAGS,
    padding,
)

_SEARCH_STEP = 1 << 22


class Footer(NamedTuple):
    """Where the index lies, its digest, and where the footer itself was found."""

    index_offset: int
    index_length: int
    digest: bytes
    position: int


def encode_header() -> bytes:
    """The header of a file of this version."""
    return pack(HEADER_STRUCT, MAGIC, MAJOR, MINOR, BYTE_ORDER, ALIGNMENT, 0, bytes(40))


def check_header(header: bytes, size: int) -> int:
    """Checks the first bytes of a file and returns its minor version.

    Args:
        header: The first bytes of the file, at least HEADER_BYTES of them unless the file is shorter.
        size: Bytes of the whole file.

    Raises:
        FormatError: Not a ggq file, or a damaged header.
        UnsupportedError: A newer version, or flags that must be understood.
    """
    if header[: len(MAGIC)] != MAGIC:
        if not header:
            raise FormatError("the file is empty (C-1)", fix="download or convert it again")
        what = identify(header) or f"it begins with {header[:8]!r}"
        fix = None if ";" in what else "give a file that `ggq convert` has made"  # behind ; stands what to do instead
        raise FormatError(f"not a ggq file: {what} (C-1)", fix=fix)
    if size < HEADER_BYTES + FOOTER_BYTES:
        problem = f"the file has {size} bytes, header and footer alone have {HEADER_BYTES + FOOTER_BYTES} (C-1)"
        raise FormatError(problem, fix="download or convert it again")
    _, major, minor, order, alignment, flags, reserved = unpack(HEADER_STRUCT, header[:HEADER_BYTES])
    if order != BYTE_ORDER:
        raise refuse("C-4", f"the byte order mark is 0x{order:08x}, allowed is 0x{BYTE_ORDER:08x}", "byte 12")
    if major == 0:
        raise refuse("C-3", "version 0 was never published", "byte 8")
    if major > MAJOR:
        problem = f"written in version {major}.{minor} of the format, this reader knows {MAJOR}.{MINOR} (C-3)"
        raise UnsupportedError(problem, where="byte 8", fix="use a newer version of ggq")
    if alignment != ALIGNMENT:
        raise refuse("C-5", f"an alignment of {alignment}, allowed is {ALIGNMENT}", "byte 16")
    if flags & REQUIRED_FLAGS:
        problem = f"flags 0x{flags:08x} ask for what this reader does not know (C-6)"
        raise UnsupportedError(problem, where="byte 20", fix="use a newer version of ggq")
    if reserved.strip(b"\0"):
        raise refuse("C-7", "reserved bytes of the header are not zero", "byte 24")
    return int(minor)


def encode_footer(header: bytes, index_offset: int, index: bytes) -> bytes:
    """The footer for an index that lies at `index_offset`."""
    body = pack(FOOTER_STRUCT, FOOTER_MAGIC, index_offset, len(index), digest_of(index), 0)
    return body + pack("<I", crc32(header[:HEADER_BYTES] + body))


def find_footer(read: Callable[[int, int], bytes], size: int, header: bytes) -> Footer:
    """The last whole footer of a file, looked for backwards from its end.

    Args:
        read: Gives the bytes at (offset, length).
        size: Bytes of the file.
        header: The file's first HEADER_BYTES bytes, which the footer's checksum covers.

    Raises:
        FormatError: There is none in the last FOOTER_SEARCH_BYTES bytes.
    """
    lowest = max(HEADER_BYTES, size - FOOTER_SEARCH_BYTES)
    end = size - size % ALIGNMENT
    torn, step = False, FOOTER_BYTES
    while end > lowest:
        start = max(end - step, lowest - lowest % ALIGNMENT)
        step = _SEARCH_STEP
        block = read(start, end - start)
        marks = np.frombuffer(block, "<u8").reshape(-1, ALIGNMENT // 8)[:, 0]
        for slot in np.flatnonzero(marks == int.from_bytes(FOOTER_MAGIC, "little"))[::-1].tolist():
            footer = _whole_footer(block[slot * 64 : slot * 64 + 64], start + slot * 64, header)
            if footer is not None:
                return footer
            torn = torn or start + slot * 64 + FOOTER_BYTES == size
        end = start
    if torn:
        raise refuse(
            "C-12", "the checksum of header and footer is wrong, and there is no older footer", f"byte {size - 64}"
        )
    problem = "no whole footer at the end: the file is cut short, or was never finished (C-10)"
    raise FormatError(problem, where=f"byte {size}", fix="download or convert it again")


def _whole_footer(data: bytes, position: int, header: bytes) -> Footer | None:
    """The footer in these 64 bytes if its checksum and position hold."""
    if int.from_bytes(data[-4:], "little") != crc32(header[:HEADER_BYTES] + data[:-4]):
        return None
    _, offset, length, digest, reserved = unpack(FOOTER_STRUCT, data[:-4])
    if reserved:
        raise refuse("C-13", "the reserved field of the footer is not zero", f"byte {position + 56}")
    if length > MAX_INDEX_BYTES:
        raise refuse("C-14", f"an index of {length} bytes, allowed are {MAX_INDEX_BYTES}", f"byte {position + 16}")
    if offset % ALIGNMENT or offset < HEADER_BYTES or offset > position:
        raise refuse(
            "C-11", f"the index lies at {offset}, not aligned between header and footer", f"byte {position + 8}"
        )
    index_end = offset + length
    if index_end + padding(index_end) != position:
        raise refuse("C-11", f"the index ends at {index_end}, the footer lies at {position}", f"byte {position + 8}")
    return Footer(offset, length, digest, position)
