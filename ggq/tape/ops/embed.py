"""Rows of a table by token id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ggq.tape.ops.operation import Operation, Weight, Write
from ggq.tape.passes import Backward, Forward, Oracle


@dataclass(frozen=True, eq=False)
class Embed(Operation):
    """out[i] = row tokens[i] of the table, times `scale`."""

    name: ClassVar[str] = "embed"
    table: Weight
    out: Write
    scale: float = 1.0

    def tables(self) -> tuple[str, ...]:
        """See `Operation`."""
        return (self.table,)

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        rows = run.weight(self.table)[run.tokens]
        run[self.out] = rows if self.scale == 1 else rows * self.scale

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        slope = run.take(self.out)
        slope = slope if self.scale == 1 else slope * self.scale
        run.meet(self.table, run.tokens.reshape(-1), slope.reshape(-1, slope.shape[-1]))

    def oracle(self, run: Oracle) -> None:
        """Numbers that the table stands for, any transform of its inputs undone."""
        run[self.out] = run.stored(self.table).effective()[run.tokens].astype(np.float64) * self.scale
