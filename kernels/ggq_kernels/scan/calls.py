"""Rows of a tape for operations with a state (run/rows.py)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ggq_kernels.code import ready
from ggq_kernels.run.rows import Rows, operands, row
from ggq_kernels.scan.operands import CONV, SCAN

# Not imported: that would import Numba, which a process with saved kernels does without.
conv, scan = ready.module("conv"), ready.module("scan")

LANES = 16
"""The last dimension of a state is padded to a multiple of this."""


@dataclass(frozen=True)
class StateRuns:
    """Where kernels find the runs of a batch and a state.

    Args:
        count: Address of an int64, the number of runs.
        words: Address of the runs' words (`RunWords`).
        offset: Where among the states of a sequence this one begins, in bytes.
    """

    count: int
    words: int
    offset: int


def conv_row(
    tokens: int,
    runs: StateRuns,
    source: Rows,
    out: Rows,
    taps: int,
    reach: int,
    before: Rows | None = None,
    after: Rows | None = None,
    bias: int = 0,
    activation: str = "none",
) -> np.ndarray:
    """out[t] = after[t] * activation(bias + sum over j of taps[j] * (before * source)[t - reach + 1 + j]).

    Args:
        tokens: Address of the number of rows.
        source, out: Buffers of one width; they may be one buffer.
        taps: Address of float32 (reach, width), with 15 readable numbers behind it.
        reach: Tokens that a result depends on.
        before, after: Gates; None for none.
        bias: Address of float32 (width,), padded with zeros to a multiple of 16; 0 for none.
        activation: "none" or "silu".
    """
    given = operands(
        CONV,
        tokens=tokens,
        run_count=runs.count,
        runs=runs.words,
        offset=runs.offset,
        source=source.address,
        source_stride=source.stride,
        out=out.address,
        out_stride=out.stride,
        before=before.address if before else 0,
        before_stride=before.stride if before else 0,
        after=after.address if after else 0,
        after_stride=after.stride if after else 0,
        width=source.width,
        taps=taps,
        reach=reach,
        bias=bias,
    )
    return row({"none": conv.conv, "silu": conv.conv_silu}[activation], given, alone=1)


@dataclass(frozen=True)
class ScanSizes:
    """Heads, those of keys, which consecutive heads share, and numbers of a key and of a value."""

    heads: int
    key_heads: int
    key_dim: int
    value_dim: int


def delta_row(
    tokens: int,
    runs: StateRuns,
    mixed: Rows,
    step: Rows,
    rate: Rows,
    out: Rows,
    sizes: ScanSizes,
    speed: int,
    shift: int,
) -> np.ndarray:
    """The gated delta rule (`ggq_kernels.scan.scan`).

    Args:
        tokens: Address of the number of rows.
        mixed: Queries and keys of `key_heads` heads, then values of `heads`.
        step, rate: A number for each head.
        speed: Address of float32 (heads,), at most 0 and in units of log2: what softplus(step + shift) is multiplied
            with before the state is with 2 to the power of it.
        shift: Address of float32 (heads,).
    """
    width = sizes.key_heads * sizes.key_dim * 4
    places = {"query": 0, "key": width, "value": 2 * width}
    others = {"rate": rate.address, "rate_stride": rate.stride, "skip": 0, "least": 0.0, "most": 0.0}
    return _scan_row("delta", tokens, runs, mixed, step, out, sizes, speed, shift, {**places, **others})


def ssm_row(
    tokens: int,
    runs: StateRuns,
    mixed: Rows,
    step: Rows,
    out: Rows,
    sizes: ScanSizes,
    speed: int,
    shift: int,
    skip: int,
    limits: tuple[float, float],
) -> np.ndarray:
    """The scan of Mamba-2; see `delta_row`.

    Args:
        mixed: Values of `heads` heads, then what is written with (B) and read with (C) of `key_heads` groups.
        skip: Address of float32 (heads,): what of a value is added to its result.
        limits: The least and the greatest step.
    """
    first, width = sizes.heads * sizes.value_dim * 4, sizes.key_heads * sizes.key_dim * 4
    places = {"value": 0, "key": first, "query": first + width}
    others = {"rate": 0, "rate_stride": 0, "skip": skip, "least": float(limits[0]), "most": float(limits[1])}
    return _scan_row("ssm", tokens, runs, mixed, step, out, sizes, speed, shift, {**places, **others})


def _scan_row(
    rule: str,
    tokens: int,
    runs: StateRuns,
    mixed: Rows,
    step: Rows,
    out: Rows,
    sizes: ScanSizes,
    speed: int,
    shift: int,
    others: dict[str, int | float],
) -> np.ndarray:
    given = operands(
        SCAN,
        tokens=tokens,
        run_count=runs.count,
        runs=runs.words,
        offset=runs.offset,
        mixed=mixed.address,
        mixed_stride=mixed.stride,
        step=step.address,
        step_stride=step.stride,
        out=out.address,
        out_stride=out.stride,
        speed=speed,
        shift=shift,
        heads=sizes.heads,
        key_heads=sizes.key_heads,
        key_dim=sizes.key_dim,
        value_dim=sizes.value_dim,
        **others,
    )
    return row(getattr(scan, f"{rule}_{'narrow' if sizes.value_dim % 64 else 'wide'}"), given)
