"""Rows of what goes through experts."""

from __future__ import annotations

import numpy as np

from ggq.engine.emit.context import Context, Step
from ggq.engine.lower.ops import AddShares, Assign, Gather
from ggq.tape.ops import Route
from ggq.tape.program import Buffer


def route(op: Route, at: Context) -> tuple[Step, np.ndarray]:
    """The shares of experts."""
    gate = None if op.gate is None else at.floats(op.gate)
    logits, out = at.floats(op.logits), at.floats(op.out)
    if op.plain:
        row = at.calls.route_row(at.tokens(op.out), logits, gate, out, op.chosen, op.renormalised, op.scale)
    else:
        correction, factors = (0 if role is None else at.weights.vector(role) for role in (op.correction, op.factors))
        row = at.calls.scored_row(
            at.tokens(op.out),
            logits,
            gate,
            out,
            chosen=op.chosen,
            renormalised=op.renormalised,
            scale=op.scale,
            sigmoid=op.score == "sigmoid",
            correction=correction,
            groups=(op.groups, op.chosen_groups, op.best),
            least=op.least,
            factors=factors,
        )
    return Step(op.name, op.out.name, op.out.rows), row


def assign(op: Assign, at: Context) -> tuple[Step, np.ndarray]:
    """The rows of each expert."""
    lists, size = at.rows_of_experts(op.shares.width)
    counts = at.batch.count(f"{op.shares.rows}.0")
    row = at.calls.assign_row(at.tokens(op.shares), at.floats(op.shares), at.floats(op.out), lists, size, counts)
    return Step(op.name, op.out.name, op.out.rows), row


def gather(op: Gather, at: Context) -> tuple[Step, np.ndarray]:
    """Gathering the rows of an expert."""
    row = at.calls.select_row(at.tokens(op.out), at.floats(op.source), at.floats(op.out), _rows(op.out, op.shares, at))
    return Step(op.name, op.out.name, op.out.rows), row


def add_shares(op: AddShares, at: Context) -> tuple[Step, np.ndarray]:
    """Adding what an expert makes."""
    source, shares, total = at.floats(op.source), at.floats(op.shares), at.floats(op.total)
    rows = _rows(op.source, op.shares, at)
    row = at.calls.share_row(at.tokens(op.source), source, shares, _expert(op.source), rows, total)
    return Step(op.name, op.total.name, op.source.rows), row


def _expert(buffer: Buffer) -> int:
    return int(buffer.rows.partition(".")[2])


def _rows(buffer: Buffer, shares: Buffer, at: Context) -> int:
    """Address of the numbers of an expert's rows."""
    lists, size = at.rows_of_experts(shares.width)
    return lists + size * _expert(buffer)
