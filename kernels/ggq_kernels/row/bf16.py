"""Activations rounded to bf16, for products by tiles of many tokens (product/amx.py)."""

from __future__ import annotations

from typing import Any

from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.row.gate import gate_columns
from ggq_kernels.row.gather import transform_columns
from ggq_kernels.row.operands import PIECE, ROUND
from ggq_kernels.run.team import allocate, release, take
from ggq_kernels.vector.functions import CLAMPED, GELU, GELU_TANH, RELU, RELU2, SIGMOID, SILU
from ggq_kernels.vector.simd import load_f32, read_i64
from ggq_kernels.vector.tile_registers import COLUMNS, TILE, TILE_BYTES, store_bf16


@inlined
def round_rows_bf16(kind: Any, row: int, team: int) -> None:
    """Round rows to bf16, to nearest and halves to even, in tiles (16 tokens, 32 columns), all columns of 16 tokens one
    after the other. What is rounded is what `quantize` would round; rows of a last tile that have no token keep what
    they held."""
    n, source = read_i64(read_i64(row + ROUND.tokens)), read_i64(row + ROUND.source)
    stride, columns = read_i64(row + ROUND.source_stride), read_i64(row + ROUND.width)
    out, up = read_i64(row + ROUND.bf16), read_i64(row + ROUND.up)
    order, factors = read_i64(row + ROUND.order), read_i64(row + ROUND.factors)
    blocks, pieces, memory = (columns + COLUMNS - 1) // COLUMNS, (columns + PIECE - 1) // PIECE, allocate(4 * PIECE)
    while True:
        job = take(team, 1)
        if job >= (n + TILE - 1) // TILE * pieces:
            release(memory)
            return
        first, start = job // pieces * TILE, job % pieces * PIECE
        stop = min(start + PIECE, blocks * COLUMNS)
        for t in range(first, min(first + TILE, n)):
            x = source + t * stride + start * 4
            if order != 0 or factors != 0:
                transform_columns(source + t * stride, order, factors, start, stop, memory)
                x = memory
            if up != 0:
                gate_columns(kind, x, up + t * stride + start * 4, stop - start, memory)
                x = memory
            target = out + (first // TILE * blocks + start // COLUMNS) * TILE_BYTES + (t - first) * 64
            for _ in range(start, stop, COLUMNS):
                store_bf16(target, load_f32(x), load_f32(x + 64))
                x += COLUMNS * 4
                target += TILE_BYTES


@op
def round_bf16(row: int, team: int) -> None:
    """Round rows, or what SiLU gates."""
    round_rows_bf16(SILU, row, team)


@op
def round_bf16_gelu_tanh(row: int, team: int) -> None:
    """Round what GELU by tanh gates."""
    round_rows_bf16(GELU_TANH, row, team)


@op
def round_bf16_gelu(row: int, team: int) -> None:
    """Round what GELU gates."""
    round_rows_bf16(GELU, row, team)


@op
def round_bf16_relu(row: int, team: int) -> None:
    """Round what ReLU gates."""
    round_rows_bf16(RELU, row, team)


@op
def round_bf16_relu2(row: int, team: int) -> None:
    """Round what the square of ReLU gates."""
    round_rows_bf16(RELU2, row, team)


@op
def round_bf16_sigmoid(row: int, team: int) -> None:
    """Round what a sigmoid gates."""
    round_rows_bf16(SIGMOID, row, team)


@op
def round_bf16_clamped_swiglu(row: int, team: int) -> None:
    """Round what a clamped SwiGLU makes."""
    round_rows_bf16(CLAMPED, row, team)


@op
def nothing(row: int, team: int) -> None:
    """What is done to few tokens that a matrix of floats takes as they are."""
