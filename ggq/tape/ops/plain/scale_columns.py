"""A buffer times a number of the model for each column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ggq.tape.ops.operation import Operation, Update, Weight
from ggq.tape.passes import Backward, Forward


@dataclass(frozen=True, eq=False)
class ScaleColumns(Operation):
    """buffer *= factors, a tensor of as many numbers as it has columns."""

    name: ClassVar[str] = "scale columns"
    buffer: Update
    factors: Weight

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        run[self.buffer] = run[self.buffer] * run.weight(self.factors)

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        run.add(self.buffer, run.take(self.buffer) * run.weight(self.factors))
