"""The scheme record: how a tensor's numbers are stored, and how many bytes that takes (spec/schemes.md)."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm, prod

TILE_ROWS = 16
"""Rows of a matrix that are interleaved, one SIMD lane each."""

UNIT_BYTES = 64
"""Bytes of one unit of a plane: 16 rows by 32 / bits columns."""

COLUMN_STEP = 32
"""Columns of quantized matrices are padded to a multiple of this: a whole unit of the narrowest plane."""

PLANES: dict[int, tuple[int, ...]] = {
    1: (1,),
    2: (2,),
    3: (2, 1),
    4: (4,),
    5: (4, 1),
    6: (4, 2),
    8: (8,),
}
"""Widths of a code's planes, low bits first."""

FLOAT_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
"""Bytes of one number of each float type."""

ROW = 0
"""The group size that stands for a whole row."""


@dataclass(frozen=True)
class Scheme:
    """How numbers are stored, apart from how they were chosen.

    Args:
        kind: "float" (whole numbers of type `value`) or "uniform" (`scale * (code - zero)`).
        bits: Bits of a code, or of a number when kind is "float".
        value: Float type of the numbers when kind is "float", else "".
        group: Columns that share a scale; ROW for the whole row; 0 when kind is "float".
        scale: Float type of the scales, "" when kind is "float".
        zero: "none" (codes are offset by 2**(bits - 1)) or "code" (one byte a group); "" when kind is "float".

    Source: spec/schemes.md.
    """

    kind: str
    bits: int
    value: str = ""
    group: int = ROW
    scale: str = ""
    zero: str = ""

    @property
    def planes(self) -> tuple[int, ...]:
        """Widths in bits of the planes of a code, low bits first; empty for floats."""
        return () if self.kind == "float" else PLANES[self.bits]

    def geometry(self, shape: tuple[int, ...]) -> Geometry:
        """Padded sizes and segment lengths of a tensor of this scheme.

        Args:
            shape: The tensor's dimensions, each at least 1; the last two are rows and columns of a matrix,
                those before them count matrices stored one after the other.
        """
        if len(shape) == 1:
            return Geometry(1, 1, shape[0], 1, shape[0], 0, shape[0], {"values": shape[0] * FLOAT_BYTES[self.value]})
        count, rows, columns = prod(shape[:-2]), shape[-2], shape[-1]
        padded_rows = round_up(rows, TILE_ROWS)
        if self.kind == "float":
            lengths = {"values": count * padded_rows * columns * FLOAT_BYTES[self.value]}
            return Geometry(count, rows, columns, padded_rows, columns, 0, columns, lengths)
        step = COLUMN_STEP if self.group == ROW else lcm(self.group, COLUMN_STEP)
        padded_columns = round_up(columns, step)
        group = padded_columns if self.group == ROW else self.group
        groups = padded_columns // group
        lengths = {
            "codes": count * padded_rows * padded_columns * self.bits // 8,
            "scales": count * padded_rows * groups * FLOAT_BYTES[self.scale],
        }
        if self.zero == "code":
            lengths["zeros"] = count * padded_rows * groups
        return Geometry(count, rows, columns, padded_rows, padded_columns, groups, group, lengths)


@dataclass(frozen=True)
class Geometry:
    """Sizes of one tensor under one scheme: matrices, rows and columns as given and padded, groups a row, columns a
    group, and the bytes of each segment by role ("values", "codes", "scales", "zeros") in the order of storage."""

    count: int
    rows: int
    columns: int
    padded_rows: int
    padded_columns: int
    groups: int
    group: int
    lengths: dict[str, int]

    @property
    def bytes(self) -> int:
        """Bytes of all segments together."""
        return sum(self.lengths.values())


def round_up(n: int, step: int) -> int:
    """The smallest multiple of `step` that is at least `n`."""
    return -(-n // step) * step
