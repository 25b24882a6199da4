"""Which experts a row goes to, and how much of each it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ggq.tape.ops.activations import ACTIVATIONS
from ggq.tape.ops.operation import Operation, Read, Write
from ggq.tape.passes import Array, Backward, Forward, Values

MOST_EXPERTS = 1024
"""Of a layer; far more than any model known has."""


@dataclass(frozen=True, eq=False)
class Route(Operation):
    """out = the softmax of the logits at the `chosen` largest of a row, times `scale`, and 0 elsewhere.

    Of equal logits the first is chosen first. With `renormalised` the softmax is over those that were chosen, else over
    all. Where there is a gate, out has one column more: its sigmoid, the share of an expert that every row goes to.
    """

    name: ClassVar[str] = "route"
    logits: Read
    gate: Read | None
    out: Write
    chosen: int
    renormalised: bool
    scale: float = 1.0

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        base, taken = self._shares(run)
        shares = run.xp.where(taken, base, run.xp.zeros_like(base)) * self.scale
        if self.gate is not None:
            shares = run.xp.concat([shares, ACTIVATIONS["sigmoid"].value(run.xp, run[self.gate])], axis=-1)
        run[self.out] = shares

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        base, taken = self._shares(run)
        slope, experts = run.take(self.out), self.logits.width
        mine = run.xp.where(taken, slope[..., :experts], run.xp.zeros_like(base)) * self.scale
        run.add(self.logits, base * (mine - run.inner(base, mine)))
        if self.gate is not None:
            run.add(self.gate, slope[..., experts:] * ACTIVATIONS["sigmoid"].slope(run.xp, run[self.gate]))

    def _shares(self, run: Values) -> tuple[Array, Array]:
        """The softmax, and whether each expert was chosen."""
        xp, logits = run.xp, run[self.logits]
        numbers = xp.arange(logits.shape[-1])
        taken = xp.zeros_like(logits, dtype=xp.bool)
        lowest = xp.full_like(logits, -float("inf"))
        for _ in range(self.chosen):
            best = xp.argmax(xp.where(taken, lowest, logits), axis=-1)
            taken = taken | (numbers == best[..., None])
        x = logits - xp.max(logits, axis=-1, keepdims=True)
        e = xp.exp(xp.where(taken, x, lowest) if self.renormalised else x)
        return e / xp.sum(e, axis=-1, keepdims=True), taken
