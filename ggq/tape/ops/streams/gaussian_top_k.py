"""Keeping the largest numbers of a row, as many as a normal distribution has above a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ggq.tape.ops.operation import Operation, Update
from ggq.tape.passes import Array, Backward, Forward, Values


@dataclass(frozen=True, eq=False)
class GaussianTopK(Operation):
    """buffer = max(buffer - mean - deviations * standard deviation, 0), both of the row."""

    name: ClassVar[str] = "gaussian top k"
    buffer: Update
    deviations: float

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        centred, deviation = self._spread(run)
        run[self.buffer] = run.xp.clip(centred - self.deviations * deviation, 0, None)

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        centred, deviation = self._spread(run)
        slope = run.take(self.buffer)
        slope = run.xp.where(centred > self.deviations * deviation, slope, run.xp.zeros_like(slope))
        mean = run.inner(slope, run.xp.ones_like(slope)) / self.buffer.width
        some = run.xp.where(deviation > 0, deviation, run.xp.ones_like(deviation))
        run.add(self.buffer, slope - mean * (1 + self.deviations * centred / some))

    def _spread(self, run: Values) -> tuple[Array, Array]:
        """The numbers less their mean, and their standard deviation."""
        x = run[self.buffer]
        centred = x - run.inner(x, run.xp.ones_like(x)) / self.buffer.width
        return centred, run.xp.sqrt(run.inner(centred, centred) / self.buffer.width)
