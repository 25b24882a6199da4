"""The scheme record: how a tensor's numbers are stored, and how many bytes that takes (spec/schemes.md)."""

from __future__ import annotations

from dataclasses import dataclass, fields
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

SUPER_GROUP = 8
"""Consecutive groups of a row that share the upper scale of two-level scales; the last super-group may be short."""

SUBSCALE_BITS = (4, 6, 8)
"""Bits of the sub-scales of two-level scales; their planes are those of codes."""

CODEBOOK_BITS = (2, 3, 4)
"""Bits of the codes of a codebook."""

TABLE_LIMITS = (-64, 63)
"""Least and largest entry of the codebooks that methods make: seven bits, so that AVX2's product of bytes cannot
saturate and takes the shorter way."""

ENTRY_LIMITS = (-127, 127)
"""Least and largest entry that a codebook may have."""

TRANSFORMS = ("scale", "order")
"""What may be done to the inputs of a matrix before it is multiplied: the order of columns first, then the scale."""


@dataclass(frozen=True)
class Scheme:
    """How numbers are stored, apart from how they were chosen.

    Args:
        kind: "float" (whole numbers of type `value`), "uniform" (`step * (code - zero)` or `step * code - minimum`),
            "ternary" (codes 0, 1 and 2 are -1, 0 and 1 steps), "binary" (0 and 1 are -1 and 1 steps) or "codebook"
            (codes are places in a table of whole numbers of steps).
        bits: Bits of a code, or of a number when kind is "float".
        value: Float type of the numbers when kind is "float", else "".
        group: Columns that share a step; ROW for the whole row; 0 when kind is "float".
        scale: Float type of the scales, "" when kind is "float".
        zero: "none" (uniform codes are offset by 2**(bits - 1)), "code" (a zero-point of one byte a group) or
            "minimum" (a float a group, subtracted); "" when kind is "float".
        subscale: 0 where each group's step is a scale of its own; 4, 6 or 8 where it is a code of so many bits, the
            sub-scale, times a scale that SUPER_GROUP groups share. Minimums are stored in the same way.
        transform: What is done to inputs: "order" where columns are stored in another order, "scale" where each
            stored column has a factor for its input; both may be.

    Source: spec/schemes.md.
    """

    kind: str
    bits: int
    value: str = ""
    group: int = ROW
    scale: str = ""
    zero: str = ""
    subscale: int = 0
    transform: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        from ggq.format.scheme_names import known_name

        name = known_name(self)
        return f"Scheme({name})" if name else f"Scheme{tuple(getattr(self, field.name) for field in fields(self))}"

    @property
    def planes(self) -> tuple[int, ...]:
        """Widths in bits of the planes of a code, low bits first; empty for floats."""
        return () if self.kind == "float" else PLANES[self.bits]

    @property
    def subscale_planes(self) -> tuple[int, ...]:
        """Widths in bits of the planes of a sub-scale, low bits first; empty where scales have one level."""
        return PLANES[self.subscale] if self.subscale else ()

    @property
    def codes(self) -> int:
        """How many codes there are; the largest is one less."""
        return 3 if self.kind == "ternary" else 1 << self.bits

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of a tensor's segments, in the order in which they are stored."""
        if self.kind == "float":
            return ("values",)
        present = {
            "codes": True,
            "scales": True,
            "subscales": self.subscale > 0,
            "zeros": self.zero == "code",
            "minimums": self.zero == "minimum",
            "subminimums": self.zero == "minimum" and self.subscale > 0,
            "codebook": self.kind == "codebook",
            "input_scale": "scale" in self.transform,
            "input_order": "order" in self.transform,
        }
        return tuple(role for role, is_there in present.items() if is_there)

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
        uppers = count * padded_rows * (-(-groups // SUPER_GROUP) if self.subscale else groups)
        lowers = count * padded_rows * sum(-(-groups * width // 8) for width in self.subscale_planes)
        bytes_by_role = {
            "codes": count * padded_rows * padded_columns * self.bits // 8,
            "scales": uppers * FLOAT_BYTES[self.scale],
            "subscales": lowers,
            "zeros": count * padded_rows * groups,
            "minimums": uppers * FLOAT_BYTES[self.scale],
            "subminimums": lowers,
            "codebook": 1 << self.bits,
            "input_scale": count * padded_columns * 4,
            "input_order": count * padded_columns * 4,
        }
        lengths = {role: bytes_by_role[role] for role in self.roles}
        return Geometry(count, rows, columns, padded_rows, padded_columns, groups, group, lengths)


@dataclass(frozen=True)
class Geometry:
    """Sizes of one tensor under one scheme: matrices, rows and columns as given and padded, groups a row, columns a
    group, and the bytes of each segment by role (see `Scheme.roles`) in the order of storage."""

    count: int
    rows: int
    columns: int
    padded_rows: int
    padded_columns: int
    groups: int
    group: int
    lengths: dict[str, int]

    @property
    def supers(self) -> int:
        """Super-groups of a row."""
        return -(-self.groups // SUPER_GROUP)

    @property
    def bytes(self) -> int:
        """Bytes of all segments together."""
        return sum(self.lengths.values())


def round_up(n: int, step: int) -> int:
    """The smallest multiple of `step` that is at least `n`."""
    return -(-n // step) * step
