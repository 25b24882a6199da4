"""Rows of a tape for attention (run/rows.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ggq_kernels.attend.operands import ATTENTION, EVERY, PAGE, STORE
from ggq_kernels.code import ready
from ggq_kernels.run.rows import Rows, operands, row

# Not imported: that would import Numba, which a process with saved kernels does without.
attention, isa = ready.module("attention"), ready.module("isa")


@dataclass(frozen=True)
class Heads:
    """Sizes of attention: query heads, key-value heads, numbers of a head, and where in a page a layer begins
    (bytes)."""

    heads: int
    kv_heads: int
    dim: int
    layer_offset: int


def layer_bytes(kind: str, kv_heads: int, dim: int) -> int:
    """Bytes of one layer in a page of a cache of "f16" or "f32"."""
    wide = -(-dim // 16) * 16
    return kv_heads * PAGE * (dim + wide) * {"f16": 2, "f32": 4}[kind]


def store_kv_row(
    kind: str, tokens: int, key: Rows, value: Rows, sizes: Heads, positions: int, tables: int
) -> np.ndarray:
    """Append keys and values, of one stride; `positions` and `tables` are addresses of an int64 a token: position,
    address of the page table."""
    given = operands(
        STORE,
        tokens=tokens,
        keys=key.address,
        values=value.address,
        stride=key.stride,
        kv_heads=sizes.kv_heads,
        dim=sizes.dim,
        layer_offset=sizes.layer_offset,
        positions=positions,
        tables=tables,
    )
    return row({"f16": attention.store_kv_f16, "f32": attention.store_kv_f32}[kind], given, alone=1)


def attention_row(
    kind: str,
    run_count: int,
    runs: int,
    query: Rows,
    out: Rows,
    sizes: Heads,
    scale: int,
    window: int = 0,
    softcap: float = 0.0,
    sinks: int = 0,
    causal: bool = True,
) -> np.ndarray:
    """Attention of all runs.

    Args:
        kind: Of the cache, "f16" or "f32".
        run_count: Address of an int64.
        runs: Address of the runs' words (`RunWords`).
        query, out: Buffers of heads * dim columns.
        scale: Address of a float64, which scores are multiplied with, times log2(e).
        window: How many positions a token sees, its own included; 0 for all. A page table's entries before the first
            one that the tokens of a run see may be 0.
        softcap: Scaled scores x become softcap * tanh(x / softcap); 0 for none.
        sinks: Address of float32 (heads,): scores without a value; 0 for none.
        causal: Whether a token sees none behind its own; else it sees all of its run, or as many behind as before it.
    """
    ahead = 0 if causal else window - 1 if window else EVERY
    given = operands(
        ATTENTION,
        run_count=run_count,
        runs=runs,
        query=query.address,
        query_stride=query.stride,
        out=out.address,
        out_stride=out.stride,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        dim=sizes.dim,
        layer_offset=sizes.layer_offset,
        scale=scale,
        window=window,
        softcap=softcap * math.log2(math.e),
        sinks=sinks,
        ahead=ahead,
    )
    return row({"f16": attention.attention_f16, "f32": attention.attention_f32}[kind], given)


def attention_jobs(tokens: int, heads: int, kv_heads: int) -> int:
    """Work items of a run of tokens; a run's words (`RunWords`) end with those before it."""
    return -(-tokens * (heads // kv_heads) // int(isa.FLOAT_ROWS)) * kv_heads
