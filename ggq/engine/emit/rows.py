"""Rows of norms, activations and what else looks at one row at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ggq.engine.emit.context import Context, Step
from ggq.tape.ops import Activate, Add, Copy, Gate, Norm, Rope, Scale, ScaleColumns, Select, Slice, SoftCap, Xielu
from ggq.tape.ops.xielu import form_of


def norm(op: Norm, at: Context) -> tuple[Step, np.ndarray]:
    """Normalizing rows or heads."""
    weight, bias = (0 if role is None else at.weights.vector(role) for role in (op.weight, op.bias))
    epsilon, source, out = at.number(op.epsilon), at.floats(op.source), at.floats(op.out)
    row = at.calls.norm_row(at.tokens(op.out), source, out, weight, epsilon, op.kind, bias, op.heads, op.own)
    return Step(op.name, op.weight or op.out.name, op.out.rows), row


def rope(op: Rope, at: Context) -> tuple[Step, np.ndarray]:
    """Rotating heads."""
    cell = at.batch.rope_tables.setdefault(op.rotation, np.zeros(1, np.int64))
    by = at.batch.angles if op.rotation.long else at.batch.positions
    table, positions = int(cell.ctypes.data), int(by.ctypes.data)
    buffer, layout, pairs = at.floats(op.buffer), op.rotation.layout, len(op.rotation.frequencies)
    row = at.calls.rope_row(at.tokens(op.buffer), buffer, op.heads, layout, table, positions, pairs)
    return Step(op.name, op.buffer.name, op.buffer.rows), row


def gate(op: Gate, at: Context) -> tuple[Step, np.ndarray]:
    """A gated activation."""
    gate, up, out = (at.floats(buffer) for buffer in (op.gate, op.up, op.out))
    row = at.calls.gate_row(at.tokens(op.out), gate, up, out, op.activation)
    return Step(op.name, op.out.name, op.out.rows), row


def activate(op: Activate, at: Context) -> tuple[Step, np.ndarray]:
    """An activation without a gate."""
    row = at.calls.activate_row(at.tokens(op.out), at.floats(op.source), at.floats(op.out), op.activation)
    return Step(op.name, op.out.name, op.out.rows), row


def xielu(op: Xielu, at: Context) -> tuple[Step, np.ndarray]:
    """An activation with learned numbers."""
    form = form_of(*(at.weights.number(role) for role in (op.alpha_p, op.alpha_n, op.beta)))
    row = at.calls.xielu_row(at.tokens(op.out), at.floats(op.source), at.floats(op.out), *form)
    return Step(op.name, op.out.name, op.out.rows), row


def add(op: Add, at: Context) -> tuple[Step, np.ndarray]:
    """Adding to a buffer."""
    row = at.calls.add_row(at.tokens(op.total), at.floats(op.source), at.floats(op.total), op.scale)
    return Step(op.name, op.total.name, op.total.rows), row


def softcap(op: SoftCap, at: Context) -> tuple[Step, np.ndarray]:
    """Bounding numbers."""
    row = at.calls.softcap_row(at.tokens(op.buffer), at.floats(op.buffer), op.cap, op.scale)
    return Step(op.name, op.buffer.name, op.buffer.rows), row


def select(op: Select, at: Context) -> tuple[Step, np.ndarray]:
    """Gathering rows."""
    rows, source, out = int(at.batch.wanted.ctypes.data), at.floats(op.source), at.floats(op.out)
    row = at.calls.select_row(at.batch.count("wanted"), source, out, rows)
    return Step(op.name, op.out.name, op.out.rows), row


def scale(op: Scale, at: Context) -> tuple[Step, np.ndarray]:
    """Multiplying with a number of the model."""
    buffer = at.floats(op.buffer)
    row = at.calls.softcap_row(at.tokens(op.buffer), buffer, 0.0, at.weights.number(op.factor))
    return Step(op.name, op.factor, op.buffer.rows), row


def scale_columns(op: ScaleColumns, at: Context) -> tuple[Step, np.ndarray]:
    """Multiplying each column with a number of the model."""
    row = at.calls.scale_columns_row(at.tokens(op.buffer), at.floats(op.buffer), at.weights.vector(op.factors))
    return Step(op.name, op.factors, op.buffer.rows), row


def columns(op: Slice, at: Context) -> tuple[Step, np.ndarray]:
    """Some columns."""
    source, out = at.floats(op.source), at.floats(op.out)
    row = at.calls.columns_row(at.tokens(op.out), replace(source, address=source.address + 4 * op.start), out)
    return Step(op.name, op.out.name, op.out.rows), row


def copy(op: Copy, at: Context) -> tuple[Step, np.ndarray]:
    """Parts of heads into another buffer."""
    source, out = at.floats(op.source), at.floats(op.out)
    starts = op.source_start, op.source_step, op.start, op.step
    row = at.calls.copy_row(at.tokens(op.out), source, out, op.heads, op.width, *starts, keep=op.add)
    return Step(op.name, op.out.name, op.out.rows), row
