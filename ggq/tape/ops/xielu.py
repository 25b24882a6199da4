"""xIELU, an activation whose form is learned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ggq.tape.ops.operation import Operation, Read, Weight, Write
from ggq.tape.passes import Array, Backward, Forward, Values


@dataclass(frozen=True, eq=False)
class Xielu(Operation):
    """out = rise * x^2 + beta * x for x above 0, else fall * (e^x - 1 - x) + beta * x; both may be one buffer.

    Here rise = softplus(alpha_p) and fall = beta + softplus(alpha_n).

    transformers takes e^min(x, -1e-6), which matters to its rounding alone: no result differs by more than 1e-6 * fall.

    Source: Huang and Schlag 2024, Deriving activation functions using integration.
    """

    name: ClassVar[str] = "xielu"
    source: Read
    out: Write
    alpha_p: Weight
    alpha_n: Weight
    beta: Weight

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        x, (rise, fall, beta) = run[self.source], self._form(run)
        above, below = run.xp.clip(x, 0, None), run.xp.clip(x, None, 0)
        run[self.out] = rise * above * above + fall * (run.xp.expm1(below) - below) + beta * x

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        x, (rise, fall, beta) = run[self.source], self._form(run)
        above, below = run.xp.clip(x, 0, None), run.xp.clip(x, None, 0)
        run.add(self.source, run.take(self.out) * (2 * rise * above + fall * run.xp.expm1(below) + beta))

    def _form(self, run: Values) -> tuple[Array, Array, Array]:
        beta = run.weight(self.beta)
        return softplus(run.xp, run.weight(self.alpha_p)), beta + softplus(run.xp, run.weight(self.alpha_n)), beta


def softplus(xp: Any, x: Array) -> Array:
    """log(1 + e^x), finite for every finite x."""
    return xp.clip(x, 0, None) + xp.log1p(xp.exp(-abs(x)))


def form_of(alpha_p: float, alpha_n: float, beta: float) -> tuple[float, float, float]:
    """Rise, fall and beta of the learned numbers."""
    rise, other = (max(x, 0.0) + math.log1p(math.exp(-abs(x))) for x in (alpha_p, alpha_n))
    return rise, beta + other, beta
