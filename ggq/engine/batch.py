"""The memory that describes a batch to the kernels."""

from __future__ import annotations

import numpy as np

from ggq.tape.ops.route import MOST_EXPERTS
from ggq.tape.rotation import Rotation

RUN_WORDS = 5
"""Words of one run, as attention reads them: first row, tokens, tokens before them, page table, jobs before it."""
STATE_WORDS = 4
"""Words of one run, as operations with a state read them: first row, tokens, address of the states before them (0 for
zeros) and of those behind them."""


class Batch:
    """Memory of one batch: counts, token ids, positions, rows of tables of angles, types and page tables by token,
    wanted rows, runs.

    Args:
        rows: Most tokens of a batch.
    """

    def __init__(self, rows: int) -> None:
        self.counts = np.zeros(3, np.int64)  # tokens, wanted rows, runs
        self.ids, self.positions, self.types, self.wanted = (np.zeros(rows, np.int64) for _ in range(4))
        self.angles = np.zeros(rows, np.int64)  # of rotations that tell long texts apart; see `Rotation.rows`
        self.expert_counts = np.zeros(MOST_EXPERTS + 1, np.int64)  # rows that go through each
        self.tables: dict[int, np.ndarray] = {}  # by group of caches
        self.runs: dict[tuple[int, int, int], np.ndarray] = {}  # by group, heads and kv_heads of attention
        self.states = np.zeros((rows, STATE_WORDS), np.int64)
        self.rope_tables: dict[Rotation, np.ndarray] = {}

    def ids_by(self, by: str) -> int:
        """Address of what rows of a table are taken by: "token", "position" or "type"."""
        return int({"token": self.ids, "position": self.positions, "type": self.types}[by].ctypes.data)

    def count(self, which: str) -> int:
        """Address of a count: "tokens", "wanted", "runs", or of the rows that go through an expert: "tokens.3"."""
        which, _, expert = which.partition(".")
        if expert:
            return int(self.expert_counts.ctypes.data) + 8 * int(expert)
        return int(self.counts.ctypes.data) + 8 * ("tokens", "wanted", "runs").index(which)
