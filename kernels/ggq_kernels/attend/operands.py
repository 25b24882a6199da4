"""Where a row of a tape holds the operands of attention, in bytes from the row's beginning, and what a run is.

A page table is an array of page addresses. Imports nothing of Numba's: kernels and those who make their rows read the
same records.
"""

from __future__ import annotations

from typing import NamedTuple

PAGE = 128
"""Positions of a page; also the block of scores that is held in the first-level cache."""

EVERY = 1 << 30
"""More positions than there are."""


class StoreRow(NamedTuple):
    """Keys and values have one stride; `positions` and `tables` are addresses of an int64 for each token."""

    tokens: int = 8
    keys: int = 16
    values: int = 24
    stride: int = 32
    kv_heads: int = 40
    dim: int = 48
    layer_offset: int = 56
    positions: int = 64
    tables: int = 72


class AttentionRow(NamedTuple):
    """Args:
    scale: Address of a float64 in units of log2.
    window: How many positions a token sees, its own included; 0 for all.
    softcap: A float in units of log2; 0 for none.
    sinks: Address of float32 (heads,); 0 for none.
    ahead: How many positions behind its own a token sees, within its run: 0 for none.
    """

    run_count: int = 8
    runs: int = 16
    query: int = 24
    query_stride: int = 32
    out: int = 40
    out_stride: int = 48
    heads: int = 56
    kv_heads: int = 64
    dim: int = 72
    layer_offset: int = 80
    scale: int = 88
    window: int = 96
    softcap: int = 104
    sinks: int = 112
    ahead: int = 120


class RunWords(NamedTuple):
    """Words of one run, consecutive tokens of one sequence: its first row, tokens, tokens before them, page table,
    jobs before it."""

    first: int = 0
    tokens: int = 8
    start: int = 16
    table: int = 24
    jobs: int = 32


STORE, ATTENTION, RUN = StoreRow(), AttentionRow(), RunWords()
RUN_BYTES = 8 * len(RUN)
