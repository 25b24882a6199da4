"""Files whose bytes are those written and whose numbers break one rule of spec/schemes.md each."""

from __future__ import annotations

import struct

from tools.bad_file import BOOK, BOTH, ORDERED, SCALED, SUBSCALED, Bad, coded
from tools.draft import descriptor, uniform


def _with(part: int | bytes, *changes: tuple[int, bytes]) -> bytes:
    """Bytes, or so many zeros, with some of them replaced."""
    data = bytearray(part)
    for at, new in changes:
        data[at : at + len(new)] = new
    return bytes(data)


def _order(*changes: tuple[int, int], columns: int = 32) -> bytes:
    """An order of columns that leaves all but some where they are."""
    order = list(range(columns))
    for at, column in changes:
        order[at] = column
    return struct.pack(f"<{columns}I", *order)


HALVES = descriptor(0, [b"values"], struct.pack("<BBBBBBHIBBB", 16, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0))
FOUR, ZERO, MINIMUM = (uniform(4, [4], 32, zero=zero) for zero in range(3))
TERNARY, BINARY = uniform(2, [2], 32, kind=2), uniform(1, [1], 32, kind=3)

INFINITE = b"\x00\x7c"
"""The f16 infinity."""

EIGHTS = b"\x88" * 256
"""Codes 8 of four bits, which are zero, for 16 x 32."""

NUMBERS = [
    Bad(name, rule, text, start, stage="numbers")
    for name, rule, text, start in (
        (
            "value-infinite",
            "S3.2",
            "value of row 1, column 0 is NaN or infinite",
            lambda: coded(HALVES, [_with(1024, (2, INFINITE))]),
        ),
        ("value-padding", "S3.4", "padding below row 14", lambda: coded(HALVES, [_with(1024, (31, b"\1"))], (15, 32))),
        (
            "scale-nan",
            "S4.2",
            "scale of row 2, group 0 is nan",
            lambda: coded(FOUR, [EIGHTS, _with(32, (4, b"\1\x7e"))]),
        ),
        (
            "minimum-infinite",
            "S4.2",
            "minimum of row 15, group 0 is inf",
            lambda: coded(MINIMUM, [256, 32, _with(32, (30, INFINITE))]),
        ),
        (
            "upper-minimum-infinite",
            "S4.2",
            "minimum of row 0, super-group 0 is inf",
            lambda: coded(BOTH, [256, 32, 32, _with(32, (0, INFINITE)), 32]),
        ),
        (
            "zero-point-16",
            "S4.3",
            "zero-point of row 3, group 0 is 16",
            lambda: coded(ZERO, [256, 32, _with(16, (3, b"\x10"))]),
        ),
        (
            "ternary-3",
            "S4.6",
            "code of row 1, column 6 is 3",
            lambda: coded(TERNARY, [_with(b"\x55" * 128, (4 + 2, b"\x5d")), 32]),
        ),
        ("codebook-128", "S4.7", "codebook entry 3 is -128", lambda: coded(BOOK, [128, 32, b"\xc0\x01\x3f\x80"])),
        (
            "padding-code",
            "S5.2",
            "a code below row 14 is not the zero-point",
            lambda: coded(FOUR, [_with(EIGHTS, (60, b"\x78")), 32], (15, 32)),
        ),
        (
            "padding-code-of-binary",
            "S5.2",
            "code of row 0, padding column 31 is not 0",
            lambda: coded(BINARY, [_with(64, (3, b"\x80")), 32], (16, 31)),
        ),
        (
            "padding-minimum",
            "S5.2",
            "a scale below row 14 is not zero",
            lambda: coded(MINIMUM, [256, 32, _with(32, (30, b"\1"))], (15, 32)),
        ),
        (
            "padding-sub-scale",
            "S5.2",
            "a scale below row 14 is not zero",
            lambda: coded(SUBSCALED, [EIGHTS, 32, _with(32, (15, b"\1"))], (15, 32)),
        ),
        (
            "sub-scale-beyond",
            "S5.7",
            "a sub-scale beyond group 0 is not zero",
            lambda: coded(SUBSCALED, [EIGHTS, 32, _with(32, (0, b"\x10"))]),
        ),
        (
            "sub-minimum-beyond",
            "S5.7",
            "a sub-scale beyond group 0 is not zero",
            lambda: coded(BOTH, [256, 32, 32, 32, _with(32, (16, b"\x04"))]),
        ),
        (
            "input-scale-nan",
            "S10.2",
            "input scale 31 is nan",
            lambda: coded(SCALED, [EIGHTS, 32, _with(128, (124, b"\0\0\xc0\x7f"))]),
        ),
        (
            "input-scale-padding",
            "S10.2",
            "beyond column 30 is not zero",
            lambda: coded(SCALED, [EIGHTS, 32, _with(128, (127, b"\x3f"))], (16, 31)),
        ),
        (
            "order-outside",
            "S10.3",
            "is column 32; allowed are 0 to 31",
            lambda: coded(ORDERED, [EIGHTS, 32, _order((5, 32))]),
        ),
        (
            "order-far-outside",
            "S10.3",
            "is column 4294967295; allowed",
            lambda: coded(ORDERED, [EIGHTS, 32, _order((0, 2**32 - 1))]),
        ),
        ("order-twice", "S10.3", "has column 7 twice", lambda: coded(ORDERED, [EIGHTS, 32, _order((8, 7))])),
        (
            "order-into-padding",
            "S10.3",
            "is column 31; allowed are 0 to 30",
            lambda: coded(ORDERED, [EIGHTS, 32, _order((0, 31), (31, 0))], (16, 31)),
        ),
        (
            "order-moves-padding",
            "S10.3",
            "moves padding columns",
            lambda: coded(ORDERED, [EIGHTS, 32, _order((31, 30))], (16, 31)),
        ),
    )
]
