"""Timing a model operation by operation, and holding each kind against what the machine can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ggq.engine.emit import Step
from ggq.engine.numba_executor import NumbaExecutor
from ggq.tape.program import Run


@dataclass(frozen=True)
class Limits:
    """What the machine can do, measured in the same run.

    Args:
        read_gb_s: GB/s of reading memory.
        integer_gop_s: GOP/s of integer products.
        tile_gop_s: GOP/s of products of bf16 by tile registers, 0 where there are none.
        tiles_from: How many tokens are multiplied by tiles.
    """

    read_gb_s: float
    integer_gop_s: float
    tile_gop_s: float = 0.0
    tiles_from: int = 0

    def peak(self, tokens: int) -> float:
        """GOP/s to hold the product of so many tokens against."""
        return self.tile_gop_s if self.tile_gop_s and tokens >= self.tiles_from else self.integer_gop_s


@dataclass(frozen=True)
class Share:
    """All operations of one kind in one pass.

    Args:
        operation: The kind; matrices are told apart by their part of a layer.
        count: How many there are.
        seconds: The medians over the repeats, added up.
        share: Of the whole pass.
        read_gb_s, read_share: Weights read a second, and that as a share of the limit; 0 where there are none.
        gop_s, peak_share: Operations of matrices a second, and that as a share of the limit.
    """

    operation: str
    count: int
    seconds: float
    share: float
    read_gb_s: float
    read_share: float
    gop_s: float
    peak_share: float


def time_prompt(executor: NumbaExecutor, tokens: np.ndarray, repeat: int) -> np.ndarray:
    """Seconds of each step in a pass over a prompt, median of some passes after one that warms up."""
    passes = []
    for _ in range(repeat + 1):
        sequence = executor.open_sequence()
        passes.append(executor.time_steps([Run(sequence, tokens)]))
        executor.close_sequence(sequence)
    return np.asarray(np.median(passes[1:], axis=0))


def time_token(executor: NumbaExecutor, tokens: np.ndarray, repeat: int) -> np.ndarray:
    """Seconds of each step for one token after the others, median of some tokens after one that warms up."""
    sequence = executor.open_sequence()
    total = len(tokens) + repeat
    executor.forward([Run(sequence, tokens[:-1], "none", total=total)])
    passes = [executor.time_steps([Run(sequence, tokens[-1:], total=total)]) for _ in range(repeat + 1)]
    executor.close_sequence(sequence)
    return np.asarray(np.median(passes[1:], axis=0))


def shares(steps: Sequence[Step], seconds: np.ndarray, tokens: int, limits: Limits) -> list[Share]:
    """What each kind of operation took, the longest first.

    Args:
        steps: The bound tape's.
        seconds: (steps,), of one pass.
        tokens: Rows of the batch; one row's logits were wanted.
        limits: To hold rates against.
    """
    kinds: dict[str, list[int]] = {}
    for i, step in enumerate(steps):
        kinds.setdefault(kind(step), []).append(i)
    found = []
    for name, places in kinds.items():
        time = float(seconds[places].sum())
        read = sum(steps[i].weight_bytes for i in places) / time / 1e9
        rows = {"tokens": tokens, "wanted": 1}
        counts = [rows[steps[i].rows.partition(".")[0]] for i in places]  # also of experts, which have fewer
        rate = sum(steps[i].operations * count for i, count in zip(places, counts)) / time / 1e9
        peak = limits.peak(max(counts))
        share = time / float(seconds.sum())
        found.append(Share(name, len(places), time, share, read, read / limits.read_gb_s, rate, rate / peak))
    return sorted(found, key=lambda share: -share.seconds)


def kind(step: Step) -> str:
    """ "linear gate up" for a layer's matrices, "linear output" for the last, the operation's own kind for the rest."""
    if step.kind != "linear":
        return step.kind
    parts = [role.split(".") for role in step.label.split()]
    return "linear " + " ".join(part[-2] if part[0] == "layers" else "output" for part in parts)
