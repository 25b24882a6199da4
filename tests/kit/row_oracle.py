"""What an operation means, in float64: its own `oracle` on the rows of one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ggq.tape.buffers import Buffer
from ggq.tape.ops import Operation
from ggq.tape.reference import KeyValueCache, StateCache
from ggq.tape.rotation import Rotation


class Rows64:
    """Buffers and weights in float64, as an operation that looks at one row at a time is given them.

    Args:
        values: (rows, width) by buffer.
        weights: By role.
        positions: Of the rows.
        cache: What is kept of the one sequence whose rows these are.
    """

    xp = np

    def __init__(
        self,
        values: Mapping[Buffer, np.ndarray],
        weights: Mapping[str, np.ndarray | None],
        positions: np.ndarray | None = None,
        cache: KeyValueCache | StateCache | None = None,
    ) -> None:
        self._cache = cache
        self._values = {buffer: np.asarray(value, np.float64) for buffer, value in values.items()}
        self._weights = weights
        self.positions = np.zeros(0, np.int64) if positions is None else positions

    def __getitem__(self, buffer: Buffer) -> np.ndarray:
        return self._values[buffer]

    def __setitem__(self, buffer: Buffer, value: np.ndarray) -> None:
        self._values[buffer] = value

    def weight(self, role: str) -> np.ndarray:
        return np.asarray(self._weights[role], np.float64)

    def inner(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray((x * y).sum(axis=-1, keepdims=True))

    def rotation(self, rotation: Rotation) -> tuple[np.ndarray, np.ndarray]:
        return rotation.table(self.positions)

    def sequences(self, cache: int) -> Sequence[tuple[KeyValueCache | StateCache | None, slice]]:
        return [(self._cache, slice(0, len(next(iter(self._values.values())))))]


def meaning(
    op: Operation,
    out: Buffer,
    values: Mapping[Buffer, np.ndarray],
    weights: Mapping[str, np.ndarray | None] | None = None,
    positions: np.ndarray | None = None,
    cache: KeyValueCache | StateCache | None = None,
) -> np.ndarray:
    """What the operation leaves in a buffer."""
    run = Rows64(values, weights or {}, positions, cache)
    op.oracle(run)  # type: ignore[arg-type]
    return run[out]
