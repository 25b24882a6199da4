"""Activations, with and without a gate. Each is an operation of its own, so that only those in use are compiled."""

from __future__ import annotations

from typing import Any

from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.row.operands import ELEMENTS, GATE, PIECE
from ggq_kernels.run.team import take
from ggq_kernels.vector.functions import CLAMPED, GELU, GELU_TANH, RELU, RELU2, SIGMOID, SILU, activated, gated
from ggq_kernels.vector.simd import load_f32, read_i64, store_f32


@inlined
def gate_columns(kind: Any, gate: int, up: int, columns: int, out: int) -> None:
    """out = activation(gate) * up, for columns in whole vectors of 16."""
    for c in range(0, columns * 4, 64):
        store_f32(out + c, gated(kind, load_f32(gate + c), load_f32(up + c)))


@inlined
def gate_rows(kind: Any, row: int, team: int) -> None:
    """out = activation(gate) * up"""
    n, gate, stride = read_i64(read_i64(row + GATE.tokens)), read_i64(row + GATE.gate), read_i64(row + GATE.stride)
    up, width = read_i64(row + GATE.up), read_i64(row + GATE.width)
    out, out_stride = read_i64(row + GATE.out), read_i64(row + GATE.out_stride)
    pieces = (width + PIECE - 1) // PIECE
    while True:
        job = take(team, 1)
        if job >= n * pieces:
            return
        t, start = job // pieces, job % pieces * PIECE
        columns, at = min(PIECE, width - start), t * stride + start * 4
        gate_columns(kind, gate + at, up + at, columns, out + t * out_stride + start * 4)


@inlined
def activate_rows(kind: Any, row: int, team: int) -> None:
    """out = activation(source)"""
    n, source = read_i64(read_i64(row + ELEMENTS.tokens)), read_i64(row + ELEMENTS.source)
    stride, width = read_i64(row + ELEMENTS.source_stride), read_i64(row + ELEMENTS.width)
    out, out_stride = read_i64(row + ELEMENTS.out), read_i64(row + ELEMENTS.out_stride)
    pieces = (width + PIECE - 1) // PIECE
    while True:
        job = take(team, 1)
        if job >= n * pieces:
            return
        t, start = job // pieces, job % pieces * PIECE
        x, y = source + t * stride, out + t * out_stride
        for c in range(start * 4, min(start + PIECE, width) * 4, 64):
            store_f32(y + c, activated(kind, load_f32(x + c)))


@op
def gate_silu(row: int, team: int) -> None:
    """out = silu(gate) * up"""
    gate_rows(SILU, row, team)


@op
def gate_gelu_tanh(row: int, team: int) -> None:
    """out = gelu(gate) * up, GELU by tanh."""
    gate_rows(GELU_TANH, row, team)


@op
def gate_gelu(row: int, team: int) -> None:
    """out = gelu(gate) * up"""
    gate_rows(GELU, row, team)


@op
def gate_relu(row: int, team: int) -> None:
    """out = max(gate, 0) * up"""
    gate_rows(RELU, row, team)


@op
def gate_relu2(row: int, team: int) -> None:
    """out = max(gate, 0)**2 * up"""
    gate_rows(RELU2, row, team)


@op
def gate_sigmoid(row: int, team: int) -> None:
    """out = sigmoid(gate) * up"""
    gate_rows(SIGMOID, row, team)


@op
def gate_clamped_swiglu(row: int, team: int) -> None:
    """out = (up + 1) * gate * sigmoid(1.702 gate), both held within 7."""
    gate_rows(CLAMPED, row, team)


@op
def activate_silu(row: int, team: int) -> None:
    """out = silu(source)"""
    activate_rows(SILU, row, team)


@op
def activate_gelu_tanh(row: int, team: int) -> None:
    """out = gelu(source), GELU by tanh."""
    activate_rows(GELU_TANH, row, team)


@op
def activate_gelu(row: int, team: int) -> None:
    """out = gelu(source)"""
    activate_rows(GELU, row, team)


@op
def activate_relu(row: int, team: int) -> None:
    """out = max(source, 0)"""
    activate_rows(RELU, row, team)


@op
def activate_relu2(row: int, team: int) -> None:
    """out = max(source, 0)**2"""
    activate_rows(RELU2, row, team)
