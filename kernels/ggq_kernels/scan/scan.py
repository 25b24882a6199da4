"""Linear attention with a state that decays: the gated delta rule and the scan of Mamba-2.

A state is (key_dim, value_dim) for each head, kept in blocks of columns, (blocks, key_dim, width of a block). Runs of
several tokens go through it in chunks (chunks.py), others token by token (tokens.py). Which it is, and where chunks
begin, depends on the run alone: what is computed beside it changes no bit, and a run that is cut at multiples of CHUNK
gives the bits of the whole.

Error bound: sums are float32 over the keys and over the tokens of a chunk; errors of a state decay with it.
"""

from __future__ import annotations

from typing import Any

from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.run.team import allocate, release, take
from ggq_kernels.scan.chunks import LEAST_TOKENS, TOGETHER, chunk_bytes, chunks_of_run
from ggq_kernels.scan.operands import RUN, RUN_BYTES, SCAN
from ggq_kernels.scan.tokens import block_of_run
from ggq_kernels.vector.blocks import BLOCK, BLOCK_ROW, COLUMN, COLUMN_ROW
from ggq_kernels.vector.simd import Tag, read_i64, tag_value

DELTA, SSM = Tag("rule", 1), Tag("rule", 0)
WIDE, NARROW = Tag("tokens", 4), Tag("tokens", 1)


@inlined
def scan_runs(rule: Any, size: Any, block: Any, one: Any, row: int, team: int) -> None:
    """Take blocks of heads of all runs until none is left; a run in chunks takes heads that share keys at once."""
    runs, heads, lanes = read_i64(row + SCAN.runs), read_i64(row + SCAN.heads), tag_value(size) * 16
    blocks, dim = (read_i64(row + SCAN.value_dim) + lanes - 1) // lanes, read_i64(row + SCAN.key_dim)
    share = heads // read_i64(row + SCAN.key_heads)
    jobs = read_i64(read_i64(row + SCAN.run_count)) * heads * blocks
    scratch = allocate(chunk_bytes(dim, lanes))
    while True:
        job = take(team, 1)
        if job >= jobs:
            release(scratch)
            return
        run, head, part = runs + job // (heads * blocks) * RUN_BYTES, job // blocks % heads, job % blocks
        if read_i64(run + RUN.tokens) < LEAST_TOKENS:
            block_of_run(rule, size, row, run, head, part, scratch)
        elif part == 0 and head % share % TOGETHER == 0:
            together = min(TOGETHER, share - head % share)
            chunks_of_run(rule, block, one, row, run, head, together, lanes, scratch)


@op
def delta_wide(row: int, team: int) -> None:
    """The gated delta rule with blocks of 64 columns."""
    scan_runs(DELTA, WIDE, BLOCK, BLOCK_ROW, row, team)


@op
def delta_narrow(row: int, team: int) -> None:
    """The gated delta rule with blocks of 16 columns."""
    scan_runs(DELTA, NARROW, COLUMN, COLUMN_ROW, row, team)


@op
def ssm_wide(row: int, team: int) -> None:
    """The scan of Mamba-2 with blocks of 64 columns."""
    scan_runs(SSM, WIDE, BLOCK, BLOCK_ROW, row, team)


@op
def ssm_narrow(row: int, team: int) -> None:
    """The scan of Mamba-2 with blocks of 16 columns."""
    scan_runs(SSM, NARROW, COLUMN, COLUMN_ROW, row, team)
