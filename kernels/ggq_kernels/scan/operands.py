"""Where a row of a tape holds the operands of operations with a state, in bytes from the row's beginning; and runs.

Imports nothing of Numba's: kernels and those who make their rows read the same records.
"""

from __future__ import annotations

from typing import NamedTuple


class ConvRow(NamedTuple):
    """Args:
    run_count: Address of an int64, `runs` of their words; `offset`: where in a sequence's states this one begins.
    before, after: Buffers of gates, 0 for none.
    taps, bias: Addresses of float32 (reach, width) without gaps, and (width,), 0 for none.
    reach: Tokens that a result depends on.
    """

    tokens: int = 8
    run_count: int = 16
    runs: int = 24
    offset: int = 32
    source: int = 40
    source_stride: int = 48
    out: int = 56
    out_stride: int = 64
    before: int = 72
    before_stride: int = 80
    after: int = 88
    after_stride: int = 96
    width: int = 104
    taps: int = 112
    reach: int = 120
    bias: int = 128


class ScanRow(NamedTuple):
    """Args:
    run_count: Address of an int64, `runs` of their words; `offset`: where in a sequence's states this one begins.
    mixed: A buffer with queries, keys and values, which begin at the bytes `query`, `key` and `value` of a row.
    step: A buffer with a number for each head; `rate`: another one, 0 in a scan.
    speed: Address of float32 (heads,): what log(1 + e**(step + shift)) is multiplied with, in units of log2.
    shift, skip: Addresses of float32 (heads,); `skip` is 0 in a delta rule.
    least, most: Floats, the bounds of a step of a scan.
    """

    tokens: int = 8
    run_count: int = 16
    runs: int = 24
    offset: int = 32
    mixed: int = 40
    mixed_stride: int = 48
    query: int = 56
    key: int = 64
    value: int = 72
    step: int = 80
    step_stride: int = 88
    rate: int = 96
    rate_stride: int = 104
    out: int = 112
    out_stride: int = 120
    speed: int = 128
    shift: int = 136
    skip: int = 144
    heads: int = 152
    key_heads: int = 160
    key_dim: int = 168
    value_dim: int = 176
    least: int = 184
    most: int = 192


class RunWords(NamedTuple):
    """Words of one run, consecutive tokens of one sequence: its first row, tokens, and the addresses of the sequence's
    states before them, 0 for zeros, and behind them, which may be the same."""

    first: int = 0
    tokens: int = 8
    source: int = 16
    target: int = 24


CONV, SCAN, RUN = ConvRow(), ScanRow(), RunWords()
RUN_BYTES = 8 * len(RUN)
