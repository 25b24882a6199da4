"""Rows of a table by what a row is: its token, its position, the type of its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ggq.errors import UnsupportedError
from ggq.tape.ops.operation import Operation, Weight, Write
from ggq.tape.passes import Backward, Forward, Oracle

BY = ("token", "position", "type")


@dataclass(frozen=True, eq=False)
class Embed(Operation):
    """out[i] = row ids[i] of the table, times `scale`.

    Args:
        table: A row for each id.
        out: As wide as the table.
        scale: A factor of all numbers.
        by: What the ids are: "token", "position", or "type", which is 1 for the second text of a pair, else 0.
    """

    name: ClassVar[str] = "embed"
    table: Weight
    out: Write
    scale: float = 1.0
    by: str = "token"

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise UnsupportedError(f"an embedding by {self.by!r} is not supported; supported: {', '.join(BY)}")

    def tables(self) -> tuple[str, ...]:
        """See `Operation`."""
        return (self.table,) if self.by == "token" else ()

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        rows = run.weight(self.table)[run.ids(self.by)]
        run[self.out] = rows if self.scale == 1 else rows * self.scale

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        slope = run.take(self.out)
        slope = slope if self.scale == 1 else slope * self.scale
        run.meet(self.table, run.ids(self.by).reshape(-1), slope.reshape(-1, slope.shape[-1]))

    def oracle(self, run: Oracle) -> None:
        """Numbers that the table stands for, any transform of its inputs undone."""
        run[self.out] = run.stored(self.table).effective()[run.ids(self.by)].astype(np.float64) * self.scale
