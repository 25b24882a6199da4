"""A buffer times a number of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ggq.tape.ops.operation import Operation, Update, Weight
from ggq.tape.passes import Backward, Forward


@dataclass(frozen=True, eq=False)
class Scale(Operation):
    """buffer *= factor, a tensor of one number."""

    name: ClassVar[str] = "scale"
    buffer: Update
    factor: Weight

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        run[self.buffer] = run[self.buffer] * run.weight(self.factor)

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        run.add(self.buffer, run.take(self.buffer) * run.weight(self.factor))
