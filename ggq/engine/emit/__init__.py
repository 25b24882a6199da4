"""Emitting: an operation becomes the row of a kernel. To add one, write its emitter and list it in EMITTERS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ggq.engine.emit import attention, experts, linear, recurrent, rounding, rows
from ggq.engine.emit.context import Context, Step
from ggq.engine.lower.ops import AddShares, Assign, Gather, Halve, Multiply, Rearrange, Round, RoundGate
from ggq.errors import UnsupportedError
from ggq.tape.ops import (
    Activate,
    Add,
    Attention,
    Copy,
    Embed,
    Gate,
    GatedDelta,
    Mamba2,
    Norm,
    Operation,
    Rope,
    Route,
    Scale,
    Select,
    ShortConv,
    Slice,
    SoftCap,
    StoreKV,
)

EMITTERS: dict[type[Operation], Callable[[Any, Context], tuple[Step, np.ndarray]]] = {
    Activate: rows.activate,
    Add: rows.add,
    AddShares: experts.add_shares,
    Assign: experts.assign,
    Attention: attention.attention,
    Copy: rows.copy,
    Embed: linear.embed,
    Gate: rows.gate,
    Gather: experts.gather,
    GatedDelta: recurrent.gated_delta,
    Halve: rounding.halve,
    Mamba2: recurrent.mamba2,
    Multiply: linear.multiply,
    Norm: rows.norm,
    Rearrange: rounding.rearrange,
    Rope: rows.rope,
    Round: rounding.quantize,
    RoundGate: rounding.quantize_gate,
    Route: experts.route,
    Scale: rows.scale,
    Select: rows.select,
    ShortConv: recurrent.short_conv,
    Slice: rows.columns,
    SoftCap: rows.softcap,
    StoreKV: attention.store,
}
"""The emitter of every operation that kernels compute."""

__all__ = ["EMITTERS", "Context", "Step", "emit"]


def emit(op: Operation, at: Context) -> tuple[Step, np.ndarray]:
    """What an operation does, and its row, int64 (32,).

    Raises:
        UnsupportedError: No kernel computes it.
    """
    if type(op) not in EMITTERS:
        raise UnsupportedError(f"no kernel computes the operation {type(op).__name__}")
    step, row = EMITTERS[type(op)](op, at)
    row[at.calls.MAY_BE_EMPTY // 8] = "." in step.rows  # of an expert
    return step, row
