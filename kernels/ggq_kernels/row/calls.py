"""Rows of a tape for the kernels of this folder (run/rows.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ggq_kernels.code import ready
from ggq_kernels.row.operands import (
    ASSIGN,
    BLEND,
    COPY,
    ELEMENTS,
    GATE,
    NORM,
    RESCALE,
    ROPE,
    ROUND,
    ROUTE,
    SCORED,
    SELECT,
    SHARE,
    TRANSFORM,
    XIELU,
)
from ggq_kernels.run.rows import BF16_TOKENS, SMALL, HasAddress, Int8Rows, Rows, operands, row

if TYPE_CHECKING:
    from ggq_kernels.run.calls import Packed

# Not imported: that would import Numba, which a process with saved kernels does without.
norm, rope, gate, elementwise = (ready.module(name) for name in ("norm", "rope", "gate", "elementwise"))
gather, rounding, bf16, experts = (ready.module(name) for name in ("gather", "rounding", "bf16", "experts"))
streams = ready.module("streams")

ACTIVATIONS = ("silu", "gelu_tanh", "gelu", "relu", "relu2")
"""Activations that have kernels."""
GATES = (*ACTIVATIONS, "sigmoid", "clamped_swiglu")
"""Those of gates."""


def norm_row(
    tokens: int,
    source: Rows,
    out: Rows,
    weight: int,
    epsilon: int,
    kind: str = "rms",
    bias: int = 0,
    heads: int = 1,
    own: bool = False,
) -> np.ndarray:
    """Normalize rows, or each of `heads` equal parts of a row; source and out may be one buffer.

    Args:
        tokens: Address of the number of rows, as everywhere in this file.
        source, out: Of one width.
        weight, bias: Addresses of float32 (width / heads,), padded with zeros to a multiple of 16; 0 for none. With
            `own` they are (width,), for each part its own.
        epsilon: Address of a float64.
        kind: "rms" or "layer".
        heads: Parts of a row.
    """
    kernel = norm.rms_norm if weight and not bias and heads == 1 else norm.rms_norm_parts
    given = operands(
        NORM,
        tokens=tokens,
        source=source.address,
        source_stride=source.stride,
        out=out.address,
        out_stride=out.stride,
        width=source.width,
        weight=weight,
        epsilon=epsilon,
        bias=bias,
        heads=heads,
        step=source.width // heads * 4 if own else 0,
    )
    return row({"rms": kernel, "layer": norm.layer_norm}[kind], given, alone=1)


def rope_row(
    tokens: int, buffer: Rows, heads: int, layout: str, table: int, positions: int, pairs: int | None = None
) -> np.ndarray:
    """Rotate heads in place.

    Args:
        layout: "half" or "pairs".
        table: The address of the address of float32 (positions, 2 * pairs): cosines, then sines.
        positions: Address of an int64 for each token.
        pairs: The first 2 * pairs numbers of each head turn; all where it is None.
    """
    dim = buffer.width // heads
    given = operands(
        ROPE,
        tokens=tokens,
        buffer=buffer.address,
        stride=buffer.stride,
        heads=heads,
        dim=dim,
        pairs=dim // 2 if pairs is None else pairs,
        table=table,
        positions=positions,
    )
    return row({"half": rope.rope_half, "pairs": rope.rope_pairs}[layout], given, alone=1)


def gate_row(tokens: int, gated: Rows, up: Rows, out: Rows, activation: str = "silu") -> np.ndarray:
    """out = activation(gated) * up; gated and up have one stride."""
    given = operands(
        GATE,
        tokens=tokens,
        gate=gated.address,
        stride=gated.stride,
        up=up.address,
        out=out.address,
        out_stride=out.stride,
        width=gated.width,
    )
    return row(_activation(gate, "gate", activation), given, alone=int(out.width <= SMALL))


def activate_row(tokens: int, source: Rows, out: Rows, activation: str) -> np.ndarray:
    """out = activation(source); they may be one buffer."""
    return _elements(_activation(gate, "activate", activation), tokens, source, out)


def add_row(tokens: int, source: Rows, total: Rows, scale: float = 1.0) -> np.ndarray:
    """total += source * scale"""
    return _elements(elementwise.add_scaled, tokens, source, total, scale)


def softcap_row(tokens: int, buffer: Rows, cap: float, scale: float = 1.0) -> np.ndarray:
    """buffer = cap * tanh(buffer * scale / cap), or buffer * scale where the cap is 0."""
    return _elements(elementwise.soft_cap, tokens, buffer, buffer, scale, cap)


def _elements(
    kernel: HasAddress, tokens: int, source: Rows, out: Rows, scale: float = 1.0, cap: float = 0.0
) -> np.ndarray:
    given = operands(
        ELEMENTS,
        tokens=tokens,
        source=source.address,
        source_stride=source.stride,
        out=out.address,
        out_stride=out.stride,
        width=source.width,
        scale=float(scale),
        cap=float(cap),
    )
    return row(kernel, given, alone=int(out.width <= SMALL))


def xielu_row(tokens: int, source: Rows, out: Rows, rise: float, fall: float, beta: float) -> np.ndarray:
    """out = rise * x**2 + beta * x above 0, fall * (e**x - 1 - x) + beta * x below; they may be one buffer."""
    given = operands(
        XIELU,
        tokens=tokens,
        source=source.address,
        source_stride=source.stride,
        out=out.address,
        out_stride=out.stride,
        width=source.width,
        rise=float(rise),
        fall=float(fall),
        beta=float(beta),
    )
    return row(streams.xielu, given, alone=int(out.width <= SMALL))


def blend_row(
    tokens: int, source: Rows, shares: Rows | None, total: Rows, width: int, base: float, first: int
) -> np.ndarray:
    """total[first + k] += the sum over i of (shares[k, i] + base) * source[i], in parts of `width` numbers."""
    given = operands(
        BLEND,
        tokens=tokens,
        source=source.address,
        source_stride=source.stride,
        shares=shares.address if shares else 0,
        shares_stride=shares.stride if shares else 0,
        total=total.address + 4 * first * width,
        total_stride=total.stride,
        width=width,
        sources=source.width // width,
        parts=total.width // width - first,
        base=float(base),
    )
    return row(streams.blend, given, alone=1)


def rescale_row(tokens: int, buffer: Rows, like: Rows, least: float) -> np.ndarray:
    """buffer *= sqrt(mean(like**2) / max(mean(buffer**2), least))"""
    given = operands(
        RESCALE,
        tokens=tokens,
        buffer=buffer.address,
        stride=buffer.stride,
        width=buffer.width,
        like=like.address,
        like_stride=like.stride,
        like_width=like.width,
        least=float(least),
    )
    return row(streams.rescale, given, alone=1)


def gaussian_top_k_row(tokens: int, buffer: Rows, deviations: float) -> np.ndarray:
    """buffer = max(buffer - mean - deviations * standard deviation, 0), both of the row."""
    return _elements(streams.gaussian_top_k, tokens, buffer, buffer, deviations)


def scale_columns_row(tokens: int, buffer: Rows, factors: int) -> np.ndarray:
    """buffer *= factors; these are the address of float32 (width,), padded with zeros to a multiple of 16."""
    given = operands(
        TRANSFORM,
        tokens=tokens,
        source=buffer.address,
        source_stride=buffer.stride,
        out=buffer.address,
        out_stride=buffer.stride,
        width=buffer.width,
        order=0,
        factors=factors,
    )
    return row(streams.scale_columns, given, alone=1)


def select_row(tokens: int, source: Rows, out: Rows, rows: int) -> np.ndarray:
    """out[i] = source[rows[i]]; `rows` is the address of int64 row numbers."""
    given = operands(
        SELECT,
        tokens=tokens,
        source=source.address,
        source_stride=source.stride,
        out=out.address,
        out_stride=out.stride,
        width=source.width,
        rows=rows,
    )
    return row(gather.select, given, alone=1)


def copy_row(
    tokens: int,
    source: Rows,
    out: Rows,
    heads: int,
    width: int,
    source_start: int,
    source_step: int,
    start: int,
    step: int,
    *,
    keep: bool,
) -> np.ndarray:
    """out[start + h * step + i] = source[source_start + h * source_step + i] for each head h and i below `width`; the
    rest of out becomes 0 unless `keep`."""
    given = operands(
        COPY,
        tokens=tokens,
        source=source.address,
        source_stride=source.stride,
        out=out.address,
        out_stride=out.stride,
        columns=out.width,
        heads=heads,
        width=width,
        source_start=source_start,
        source_step=source_step,
        start=start,
        step=step,
        keep=int(keep),
    )
    return row(gather.copy, given, alone=1)


def columns_row(tokens: int, source: Rows, out: Rows) -> np.ndarray:
    """out = as many columns of source, from its address on, as out has."""
    given = operands(
        SELECT,
        tokens=tokens,
        source=source.address,
        source_stride=source.stride,
        out=out.address,
        out_stride=out.stride,
        width=out.width,
        rows=0,
    )
    return row(gather.columns, given, alone=int(out.width <= SMALL))


def _routing(tokens: int, logits: Rows, gate: Rows | None, out: Rows) -> dict[str, int]:
    """Operands of a router's buffers."""
    return {
        "tokens": tokens,
        "logits": logits.address,
        "logits_stride": logits.stride,
        "width": logits.width,
        "gate": gate.address if gate else 0,
        "gate_stride": gate.stride if gate else 0,
        "out": out.address,
        "out_stride": out.stride,
    }


def route_row(
    tokens: int, logits: Rows, gate: Rows | None, out: Rows, chosen: int, renormalised: bool, scale: float
) -> np.ndarray:
    """out = a softmax of the `chosen` largest logits of a row, of these alone or of all, times `scale`, 0 elsewhere;
    behind it the sigmoid of the gate where there is one."""
    given = operands(
        ROUTE, **_routing(tokens, logits, gate, out), chosen=chosen, renormalised=int(renormalised), scale=float(scale)
    )
    return row(experts.route, given, alone=1)


def scored_row(
    tokens: int,
    logits: Rows,
    gate: Rows | None,
    out: Rows,
    *,
    chosen: int,
    renormalised: bool,
    scale: float,
    sigmoid: bool,
    correction: int,
    groups: tuple[int, int, int],
    least: float,
    factors: int,
) -> np.ndarray:
    """Shares by scores that are no plain softmax.

    Args:
        logits, gate, out, chosen, renormalised, scale: As of `route_row`.
        sigmoid: Whether scores are sigmoids; else a softmax.
        correction: Address of what is added to scores to choose, float32 (width,); 0 for none.
        groups: How many there are, how many are chosen, and how many of its best experts each is measured by.
        least: Added to the sum of the chosen scores.
        factors: Address of factors of the shares, float32 (width,); 0 for none.
    """
    given = operands(
        SCORED,
        **_routing(tokens, logits, gate, out),
        chosen=chosen,
        renormalised=int(renormalised),
        scale=float(scale),
        sigmoid=int(sigmoid),
        correction=correction,
        groups=groups[0],
        chosen_groups=groups[1],
        best=groups[2],
        least=float(least),
        factors=factors,
    )
    return row(experts.route_scored, given, alone=1)


def assign_row(tokens: int, shares: Rows, out: Rows, lists: int, size: int, counts: int) -> np.ndarray:
    """For each column of the shares the numbers of the rows where it is not 0, int64 at `lists`, `size` bytes from one
    column to the next, and how many they are at `counts`; out = 0."""
    given = operands(
        ASSIGN,
        tokens=tokens,
        shares=shares.address,
        shares_stride=shares.stride,
        width=shares.width,
        lists=lists,
        size=size,
        counts=counts,
        out=out.address,
        out_stride=out.stride,
        columns=out.width,
    )
    return row(experts.assign, given, alone=1)


def share_row(tokens: int, source: Rows, shares: Rows, column: int, rows: int, out: Rows) -> np.ndarray:
    """out[rows[i]] += source[i] * shares[rows[i], column]; `tokens` is the address of how many rows there are."""
    given = operands(
        SHARE,
        tokens=tokens,
        source=source.address,
        source_stride=source.stride,
        width=source.width,
        shares=shares.address + 4 * column,
        shares_stride=shares.stride,
        out=out.address,
        out_stride=out.stride,
        rows=rows,
    )
    return row(experts.add_shares, given, alone=1 if source.width <= SMALL else 0)


def transform_row(tokens: int, source: Rows, out: Rows, matrix: Packed) -> np.ndarray:
    """out = the columns of source in the matrix's order, times its factors."""
    given = operands(
        TRANSFORM,
        tokens=tokens,
        source=source.address,
        source_stride=source.stride,
        out=out.address,
        out_stride=out.stride,
        width=out.width,
        order=matrix.order,
        factors=matrix.column_scale,
    )
    return row(gather.transform, given, alone=1)


def quantize_row(
    tokens: int, source: Rows, out: Int8Rows, matrix: Packed, up: Rows | None = None, activation: str = "silu"
) -> np.ndarray:
    """Round a buffer to int8 as a matrix wants it, or activation(buffer) * up, both of one stride; many tokens to bf16
    where `out` has room for it."""
    given = operands(
        ROUND,
        tokens=tokens,
        source=source.address,
        source_stride=source.stride,
        width=out.columns,
        out=out.codes,
        scales=out.scales,
        offsets=out.offsets,
        sums=out.sums,
        bf16=out.bf16,
        group=out.group,
        order=matrix.order,
        factors=matrix.column_scale,
        form=("group", "token", "static").index(matrix.activations),
        step=float(matrix.activation_step),
        up=up.address if up else 0,
    )
    kernel, many = rounding.quantize, bf16.round_bf16 if out.bf16 else None
    if up and activation != "silu":
        kernel = _activation(rounding, "quantize", activation)
        many = _activation(bf16, "round_bf16", activation) if out.bf16 else None
    return row(kernel, given, alone=int(out.columns <= SMALL), many=many)


def round_row(tokens: int, source: Rows, columns: int) -> np.ndarray:
    """Round many tokens of a buffer to bf16, for matrices of floats; nothing is done to fewer."""
    given = {ROUND.tokens: tokens, ROUND.source: source.address, ROUND.source_stride: source.stride}
    given |= {ROUND.width: columns, ROUND.bf16: source.bf16}
    return row(bf16.nothing, given, alone=BF16_TOKENS - 1, many=bf16.round_bf16)


def _activation(module: ready.Ready, kernel: str, activation: str) -> HasAddress:
    """The kernel of an activation; a name that has none is refused where operations are made (tape/ops)."""
    found: HasAddress = getattr(module, f"{kernel}_{activation}")
    return found
