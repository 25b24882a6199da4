"""Rows of what happens to a product's inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ggq.engine.emit.context import Context, Step
from ggq.engine.lower.ops import Halve, Rearrange, Round, RoundGate


def quantize(op: Round, at: Context) -> tuple[Step, np.ndarray]:
    """Rounding as a matrix wants it."""
    matrix, source = at.weights.matrix(op.matrix), at.floats(op.source)
    row = at.calls.quantize_row(at.tokens(op.source), source, at.rounded(op.out), matrix)
    return Step(op.name, op.source.name, op.source.rows), row


def quantize_gate(op: RoundGate, at: Context) -> tuple[Step, np.ndarray]:
    """Rounding a gate's result."""
    matrix, gate, up = at.weights.matrix(op.matrix), at.floats(op.gate), at.floats(op.up)
    row = at.calls.quantize_row(at.tokens(op.gate), gate, at.rounded(op.out), matrix, up, op.activation)
    return Step(op.name, op.label, op.gate.rows), row


def rearrange(op: Rearrange, at: Context) -> tuple[Step, np.ndarray]:
    """Moving and scaling columns."""
    matrix, out = at.weights.matrix(op.matrix), at.floats(op.out)
    row = at.calls.transform_row(at.tokens(op.source), at.floats(op.source), replace(out, width=matrix.columns), matrix)
    return Step(op.name, op.source.name, op.source.rows), row


def halve(op: Halve, at: Context) -> tuple[Step, np.ndarray]:
    """Rounding many tokens to bf16."""
    source = replace(at.floats(op.source), bf16=at.halves(op.out))
    row = at.calls.round_row(at.tokens(op.source), source, op.out.columns)
    return Step(op.name, op.source.name, op.source.rows), row
