"""Rows of operations that carry a state."""

from __future__ import annotations

import numpy as np

from ggq.engine.emit.context import Context, Step
from ggq.tape.ops import ShortConv


def short_conv(op: ShortConv, at: Context) -> tuple[Step, np.ndarray]:
    """A short convolution of all runs of a batch."""
    before, after = (None if buffer is None else at.floats(buffer) for buffer in (op.before, op.after))
    taps, bias = at.weights.vector(op.taps), 0 if op.bias is None else at.weights.vector(op.bias)
    source, out, runs = at.floats(op.source), at.floats(op.out), at.runs(op.state)
    row = at.calls.conv_row(at.tokens(op.out), runs, source, out, taps, op.reach, before, after, bias, op.activation)
    return Step(op.name, op.taps, op.out.rows), row
