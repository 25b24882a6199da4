"""Giving a row the size of another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ggq.tape.ops.operation import Operation, Read, Update
from ggq.tape.passes import Array, Backward, Forward, Values


@dataclass(frozen=True, eq=False)
class Rescale(Operation):
    """buffer *= sqrt(mean(like^2)) / sqrt(max(mean(buffer^2), least))"""

    name: ClassVar[str] = "rescale"
    buffer: Update
    like: Read
    least: float

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        size, own, _ = self._sizes(run)
        run[self.buffer] = run[self.buffer] * (size / own)

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        x, like, slope = run[self.buffer], run[self.like], run.take(self.buffer)
        size, own, free = self._sizes(run)
        met = run.inner(slope, x)
        held = run.xp.where(free, met, run.xp.zeros_like(met)) / (own * own * self.buffer.width)
        run.add(self.buffer, (slope - x * held) * (size / own))
        run.add(self.like, like * (met / (own * size * self.like.width)))

    def _sizes(self, run: Values) -> tuple[Array, Array, Array]:
        """The root mean square of `like`, that of the buffer or its least, and whether the buffer's own counts."""
        like, x = run[self.like], run[self.buffer]
        size = run.xp.sqrt(run.inner(like, like) / self.like.width)
        square = run.inner(x, x) / self.buffer.width
        return size, run.xp.sqrt(run.xp.clip(square, self.least, None)), square > self.least
