"""Rows of operations that carry a state."""

from __future__ import annotations

import numpy as np

from ggq.engine.emit.context import Context, Step
from ggq.tape.ops import GatedDelta, Mamba2, ShortConv


def short_conv(op: ShortConv, at: Context) -> tuple[Step, np.ndarray]:
    """A short convolution of all runs of a batch."""
    before, after = (None if buffer is None else at.floats(buffer) for buffer in (op.before, op.after))
    taps, bias = at.weights.vector(op.taps), 0 if op.bias is None else at.weights.vector(op.bias)
    source, out, runs = at.floats(op.source), at.floats(op.out), at.runs(op.state)
    row = at.calls.conv_row(at.tokens(op.out), runs, source, out, taps, op.reach, before, after, bias, op.activation)
    return Step(op.name, op.taps, op.out.rows), row


def gated_delta(op: GatedDelta, at: Context) -> tuple[Step, np.ndarray]:
    """The gated delta rule of all runs of a batch."""
    sizes = at.calls.ScanSizes(op.heads, op.key_heads, op.key_dim, op.value_dim)
    buffers = (at.floats(buffer) for buffer in (op.mixed, op.decay, op.rate, op.out))
    vectors = at.weights.speed(op.speed), at.weights.vector(op.shift)
    row = at.calls.delta_row(at.tokens(op.out), at.runs(op.state), *buffers, sizes, *vectors)
    return Step(op.name, op.speed, op.out.rows), row


def mamba2(op: Mamba2, at: Context) -> tuple[Step, np.ndarray]:
    """The scan of all runs of a batch."""
    sizes = at.calls.ScanSizes(op.heads, op.groups, op.state_size, op.head_dim)
    buffers = (at.floats(buffer) for buffer in (op.mixed, op.step, op.out))
    vectors = at.weights.speed(op.speed), at.weights.vector(op.shift), at.weights.vector(op.skip)
    limits = op.least, op.most
    row = at.calls.ssm_row(at.tokens(op.out), at.runs(op.state), *buffers, sizes, *vectors, limits)
    return Step(op.name, op.speed, op.out.rows), row
