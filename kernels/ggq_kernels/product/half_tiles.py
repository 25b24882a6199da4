"""The product of many tokens by tiles of bf16 (amx.py) with codes in groups that end in the middle of a block."""

from __future__ import annotations

from ggq_kernels.code.compiled import op
from ggq_kernels.product.amx import linear_tiles
from ggq_kernels.product.half_blocks import C2, C3, C4, Q1, Q2, Q3, Q4, Q5, Q6, Q8

# One small function for each kernel, as in linear.py.


@op
def half_tiles_q1(row: int, team: int) -> None:
    linear_tiles(Q1, row, team)


@op
def half_tiles_q2(row: int, team: int) -> None:
    linear_tiles(Q2, row, team)


@op
def half_tiles_q3(row: int, team: int) -> None:
    linear_tiles(Q3, row, team)


@op
def half_tiles_q4(row: int, team: int) -> None:
    linear_tiles(Q4, row, team)


@op
def half_tiles_q5(row: int, team: int) -> None:
    linear_tiles(Q5, row, team)


@op
def half_tiles_q6(row: int, team: int) -> None:
    linear_tiles(Q6, row, team)


@op
def half_tiles_q8(row: int, team: int) -> None:
    linear_tiles(Q8, row, team)


@op
def half_tiles_c2(row: int, team: int) -> None:
    linear_tiles(C2, row, team)


@op
def half_tiles_c3(row: int, team: int) -> None:
    linear_tiles(C3, row, team)


@op
def half_tiles_c4(row: int, team: int) -> None:
    linear_tiles(C4, row, team)
