"""Rows of a tape for operations with a state (run/rows.py)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ggq_kernels.code import ready
from ggq_kernels.run.rows import Rows, operands, row
from ggq_kernels.scan.operands import CONV

# Not imported: that would import Numba, which a process with saved kernels does without.
conv = ready.module("conv")

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
