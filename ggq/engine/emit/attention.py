"""Rows of attention and its cache."""

from __future__ import annotations

import math

import numpy as np

from ggq.engine.batch import RUN_WORDS
from ggq.engine.emit.context import Context, Step
from ggq.tape.ops import Attention, StoreKV


def store(op: StoreKV, at: Context) -> tuple[Step, np.ndarray]:
    """Keys and values into the cache."""
    positions = at.batch.positions
    tables = at.batch.tables.setdefault(at.group_of(op.cache), np.zeros(len(positions), np.int64))
    key, value = at.floats(op.key), at.floats(op.value)
    sizes = at.heads(op.cache)
    addresses = int(positions.ctypes.data), int(tables.ctypes.data)
    row = at.calls.store_kv_row(at.cache, at.tokens(op.key), key, value, sizes, *addresses)
    return Step(op.name, f"layer {op.cache}", op.key.rows), row


def attention(op: Attention, at: Context) -> tuple[Step, np.ndarray]:
    """Attention of all runs of a batch."""
    words = np.zeros((len(at.batch.ids), RUN_WORDS), np.int64)
    described = at.batch.runs.setdefault((at.group_of(op.cache), op.heads, op.kv_heads), words)
    scale, count = at.number(op.scale * math.log2(math.e)), at.batch.count("runs")
    sinks = 0 if op.sinks is None else at.weights.vector(op.sinks)
    query, out, sizes = at.floats(op.query), at.floats(op.out), at.heads(op.cache, op.heads)
    runs = int(described.ctypes.data)
    row = at.calls.attention_row(
        at.cache, count, runs, query, out, sizes, scale, op.window, op.softcap, sinks, causal=op.causal
    )
    return Step(op.name, f"layer {op.cache}", op.query.rows), row
