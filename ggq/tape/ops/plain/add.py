"""Adding a buffer to another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ggq.tape.ops.operation import Operation, Read, Update
from ggq.tape.passes import Backward, Forward


@dataclass(frozen=True, eq=False)
class Add(Operation):
    """total += source * scale"""

    name: ClassVar[str] = "add"
    source: Read
    total: Update
    scale: float = 1.0

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        run[self.total] = run[self.total] + run[self.source] * self.scale

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        run.add(self.source, run.slope(self.total) * self.scale)
