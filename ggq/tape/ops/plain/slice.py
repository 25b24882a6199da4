"""Some columns of a buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ggq.tape.ops.operation import Operation, Read, Write
from ggq.tape.passes import Backward, Forward


@dataclass(frozen=True, eq=False)
class Slice(Operation):
    """out = the columns of source from `start` on, as many as out has."""

    name: ClassVar[str] = "slice"
    source: Read
    out: Write
    start: int

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        run[self.out] = run[self.source][..., self.start : self.start + self.out.width]

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        total = run.xp.zeros_like(run[self.source])
        total[..., self.start : self.start + self.out.width] = run.take(self.out)
        run.add(self.source, total)
