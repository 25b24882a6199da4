"""Rows of what models of several parallel rows do to them."""

from __future__ import annotations

import numpy as np

from ggq.engine.emit.context import Context, Step
from ggq.tape.ops import Blend, GaussianTopK, Rescale


def blend(op: Blend, at: Context) -> tuple[Step, np.ndarray]:
    """Sums of parts."""
    source, total = at.floats(op.source), at.floats(op.total)
    shares = None if op.shares is None else at.floats(op.shares)
    row = at.calls.blend_row(at.tokens(op.total), source, shares, total, op.width, op.base, op.first)
    return Step(op.name, op.total.name, op.total.rows), row


def rescale(op: Rescale, at: Context) -> tuple[Step, np.ndarray]:
    """Giving a row the size of another one."""
    row = at.calls.rescale_row(at.tokens(op.buffer), at.floats(op.buffer), at.floats(op.like), op.least)
    return Step(op.name, op.buffer.name, op.buffer.rows), row


def gaussian_top_k(op: GaussianTopK, at: Context) -> tuple[Step, np.ndarray]:
    """Keeping the largest numbers."""
    row = at.calls.gaussian_top_k_row(at.tokens(op.buffer), at.floats(op.buffer), op.deviations)
    return Step(op.name, op.buffer.name, op.buffer.rows), row
