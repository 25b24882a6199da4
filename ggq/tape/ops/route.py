"""Which experts a row goes to, and how much of each it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ggq.errors import UnsupportedError
from ggq.tape.ops.activations import ACTIVATIONS
from ggq.tape.ops.operation import Operation, Read, Weight, Write
from ggq.tape.passes import Array, Backward, Forward, Values

MOST_EXPERTS = 1024
"""Of a layer; far more than any model known has."""

MOST_GROUPS = 63
"""Of experts; a kernel notes them as bits of a word."""

SCORES = ("softmax", "sigmoid")


@dataclass(frozen=True, eq=False)
class Route(Operation):
    """out = the scores of the `chosen` best experts of a row, times `scale`, and 0 elsewhere.

    Of equal ones the first is chosen first. Where there is a gate, out has one column more: its sigmoid, the share of
    an expert that every row goes to.

    Args:
        logits: Of each expert.
        gate: One number of a row; None for none.
        out: Shares.
        chosen: Experts of a row.
        renormalised: Whether scores are divided by the sum of those that were chosen, plus `least`.
        scale: What shares are multiplied with.
        score: What logits become: "softmax" or "sigmoid".
        correction: What is added to scores to choose, not to what is taken; None for nothing.
        groups: Groups of consecutive experts, of which `chosen_groups` are chosen first: those whose `best` best
            experts have the largest sum.
        least: Added to the sum.
        factors: What shares are multiplied with, expert by expert; None for ones.
    """

    name: ClassVar[str] = "route"
    logits: Read
    gate: Read | None
    out: Write
    chosen: int
    renormalised: bool
    scale: float = 1.0
    score: str = "softmax"
    correction: Weight | None = None
    groups: int = 1
    chosen_groups: int = 1
    best: int = 1
    least: float = 0.0
    factors: Weight | None = None

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise UnsupportedError(f"scores by {self.score!r} are not supported; supported: {', '.join(SCORES)}")

    @property
    def plain(self) -> bool:
        """Whether the largest logits are chosen, and shares are a softmax of them."""
        return self.score == "softmax" and self.correction is None and self.factors is None and self.groups == 1

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        base, taken = self._shares(run)
        shares = run.xp.where(taken, base, run.xp.zeros_like(base)) * self._scale(run)
        if self.gate is not None:
            shares = run.xp.concat([shares, ACTIVATIONS["sigmoid"].value(run.xp, run[self.gate])], axis=-1)
        run[self.out] = shares

    def backward(self, run: Backward) -> None:
        """See `Operation`; which experts are chosen counts as given."""
        base, taken = self._shares(run)
        slope, experts = run.take(self.out), self.logits.width
        mine = run.xp.where(taken, slope[..., :experts] * self._scale(run), run.xp.zeros_like(base))
        if self.renormalised or self.score == "softmax":
            mine = mine - run.inner(base, mine)
        if self.score == "sigmoid":
            mine = run.xp.where(taken, mine * (1 - self._scores(run)), run.xp.zeros_like(base))
        run.add(self.logits, base * mine)
        if self.gate is not None:
            run.add(self.gate, slope[..., experts:] * ACTIVATIONS["sigmoid"].slope(run.xp, run[self.gate]))

    def _scale(self, run: Values) -> Array | float:
        return self.scale if self.factors is None else run.weight(self.factors) * self.scale

    def _scores(self, run: Values) -> Array:
        """The score of each expert."""
        xp, logits = run.xp, run[self.logits]
        if self.score == "sigmoid":
            return ACTIVATIONS["sigmoid"].value(xp, logits)
        e = xp.exp(logits - xp.max(logits, axis=-1, keepdims=True))
        return e / xp.sum(e, axis=-1, keepdims=True)

    def _shares(self, run: Values) -> tuple[Array, Array]:
        """The scores, divided by their sum where asked for, and whether each expert was chosen."""
        xp, scores = run.xp, self._scores(run)
        wishes = run[self.logits] if self.plain else scores
        if self.correction is not None:
            wishes = wishes + run.weight(self.correction)
        lowest = xp.full_like(wishes, -float("inf"))
        if self.groups > 1:
            grouped = wishes.reshape(*wishes.shape[:-1], self.groups, wishes.shape[-1] // self.groups)
            best = xp.sum(xp.sort(grouped, axis=-1)[..., -self.best :], axis=-1)
            allowed = xp.broadcast_to(_largest(xp, best, self.chosen_groups)[..., None], grouped.shape)
            wishes = xp.where(allowed.reshape(wishes.shape), wishes, lowest)
        taken = _largest(xp, wishes, self.chosen)
        if self.renormalised:
            held = xp.where(taken, scores, xp.zeros_like(scores))
            scores = held / (xp.sum(held, axis=-1, keepdims=True) + self.least)
        return scores, taken


def _largest(xp: Any, x: Array, count: int) -> Array:
    """Which numbers of each row are the `count` largest; of equal ones the first."""
    numbers, taken, lowest = xp.arange(x.shape[-1]), xp.zeros_like(x, dtype=xp.bool), xp.full_like(x, -float("inf"))
    for _ in range(count):
        best = xp.argmax(xp.where(taken, lowest, x), axis=-1)
        taken = taken | (numbers == best[..., None])
    return taken
