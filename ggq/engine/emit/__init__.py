"""Emitting: an operation becomes the row of a kernel. To add one, write its emitter and list it in EMITTERS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ggq.engine.emit import attention, experts, linear, recurrent, rounding, rows, streams
from ggq.engine.emit.context import Context, Step
from ggq.engine.lower.ops import AddShares, Assign, Gather, Halve, Multiply, Rearrange, Round, RoundGate
from ggq.errors import UnsupportedError
from ggq.tape.ops import (
    Activate,
    Add,
    Attention,
    Blend,
    Copy,
    Embed,
    Gate,
    GatedDelta,
    GaussianTopK,
    Mamba2,
    Norm,
    Operation,
    Rescale,
    Rope,
    Route,
    Scale,
    ScaleColumns,
    Select,
    ShortConv,
    Slice,
    SoftCap,
    StoreKV,
    Xielu,
)

EMITTERS: dict[type[Operation], Callable[[Any, Context], tuple[Step, np.ndarray]]] = {
    Activate: rows.activate,
    Add: rows.add,
    AddShares: experts.add_shares,
    Assign: experts.assign,
    Attention: attention.attention,
    Blend: streams.blend,
    Copy: rows.copy,
    Embed: linear.embed,
    Gate: rows.gate,
    Gather: experts.gather,
    GatedDelta: recurrent.gated_delta,
    GaussianTopK: streams.gaussian_top_k,
    Halve: rounding.halve,
    Mamba2: recurrent.mamba2,
    Multiply: linear.multiply,
    Norm: rows.norm,
    Rearrange: rounding.rearrange,
    Rescale: streams.rescale,
    Rope: rows.rope,
    Round: rounding.quantize,
    RoundGate: rounding.quantize_gate,
    Route: experts.route,
    Scale: rows.scale,
    ScaleColumns: rows.scale_columns,
    Select: rows.select,
    ShortConv: recurrent.short_conv,
    Slice: rows.columns,
    SoftCap: rows.softcap,
    StoreKV: attention.store,
    Xielu: rows.xielu,
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
