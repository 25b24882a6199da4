"""Bounding numbers smoothly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ggq.tape.ops.operation import Operation, Update
from ggq.tape.passes import Backward, Forward


@dataclass(frozen=True, eq=False)
class SoftCap(Operation):
    """buffer = cap * tanh(buffer * scale / cap), or buffer * scale where the cap is 0."""

    name: ClassVar[str] = "soft cap"
    buffer: Update
    cap: float
    scale: float = 1.0

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        x = run[self.buffer] * self.scale
        run[self.buffer] = self.cap * run.xp.tanh(x / self.cap) if self.cap else x

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        slope = run.take(self.buffer) * self.scale
        if self.cap:
            slope = slope * (1 - run.xp.tanh(run[self.buffer] * self.scale / self.cap) ** 2)
        run.add(self.buffer, slope)
