"""Feed-forwards of which each row goes through a few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from ggq.tape.ops.activations import ACTIVATIONS, check_activation
from ggq.tape.ops.operation import WEIGHT, Operation, Read, Write
from ggq.tape.passes import Array, Backward, Forward, Oracle, Values


@dataclass(frozen=True, eq=False)
class Experts(Operation):
    """out = sum over experts e of shares[e] * downs[e](activation(gates[e](source)) * ups[e](source)).

    A row goes through the experts whose share is not 0, in their order; the matrices of the others are not read for it.
    """

    name: ClassVar[str] = "experts"
    source: Read
    shares: Read
    gates: Annotated[tuple[str, ...], WEIGHT]
    ups: Annotated[tuple[str, ...], WEIGHT]
    downs: Annotated[tuple[str, ...], WEIGHT]
    out: Write
    activation: str

    def __post_init__(self) -> None:
        check_activation(self.activation)

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        source, act = run[self.source], ACTIVATIONS[self.activation].value
        flat, total = source.reshape(-1, source.shape[-1]), None
        for expert, rows in self._rows(run):
            x = flat[rows]
            inner = act(run.xp, x @ run.weight(self.gates[expert]).T) * (x @ run.weight(self.ups[expert]).T)
            total = self._added(run, total, expert, rows, inner @ run.weight(self.downs[expert]).T)
        run[self.out] = self._result(run, total)

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        source, function = run[self.source], ACTIVATIONS[self.activation]
        flat, slope = source.reshape(-1, source.shape[-1]), run.take(self.out)
        slope = slope.reshape(-1, slope.shape[-1])
        to_source, to_shares = run.xp.zeros_like(flat), run.xp.zeros_like(self._shares(run))
        for expert, rows in self._rows(run):
            roles = self.gates[expert], self.ups[expert], self.downs[expert]
            gate, up, down = map(run.weight, roles)
            x, share = flat[rows], self._shares(run)[rows, expert][:, None]
            g, u = x @ gate.T, x @ up.T
            inner = function.value(run.xp, g) * u
            to_shares[rows, expert] = (slope[rows] * (inner @ down.T)).sum(-1)
            scaled = slope[rows] * share
            back = scaled @ down
            slopes = back * u * function.slope(run.xp, g), back * function.value(run.xp, g), scaled
            for role, inputs, result in zip(roles, (x, x, inner), slopes, strict=True):
                run.meet(role, inputs, result)
            to_source[rows] = to_source[rows] + slopes[0] @ gate + slopes[1] @ up
        run.add(self.source, to_source.reshape(source.shape))
        run.add(self.shares, to_shares.reshape(run[self.shares].shape))

    def oracle(self, run: Oracle) -> None:
        """Each matrix meets the rows of its expert alone, transformed and rounded as it asks for."""
        source, total = run[self.source], None
        act = ACTIVATIONS[self.activation].value

        def product(role: str, x: Array) -> Array:
            x, numbers = run.rounded(run.stored(role), x)
            return x @ numbers.astype(np.float64).T

        for expert, rows in self._rows(run):
            x = source[rows]
            inner = act(run.xp, product(self.gates[expert], x)) * product(self.ups[expert], x)
            total = self._added(run, total, expert, rows, product(self.downs[expert], inner))
        run[self.out] = self._result(run, total)

    def _shares(self, run: Values) -> Array:
        shares = run[self.shares]
        return shares.reshape(-1, shares.shape[-1])

    def _rows(self, run: Values) -> list[tuple[int, Array]]:
        """The experts that some rows go through, and these rows."""
        chosen = self._shares(run) != 0
        found = ((expert, run.xp.nonzero(chosen[:, expert])[0]) for expert in range(len(self.gates)))
        return [(expert, rows) for expert, rows in found if len(rows)]

    def _added(self, run: Values, total: Array | None, expert: int, rows: Array, result: Array) -> Array:
        """The sum of the experts so far."""
        if total is None:
            total = run.xp.zeros((len(self._shares(run)), result.shape[-1]), dtype=result.dtype)
        total[rows] = total[rows] + self._shares(run)[rows, expert][:, None] * result
        return total

    def _result(self, run: Values, total: Array | None) -> Array:
        """The sum in the shape of the rows."""
        shares = run[self.shares]
        if total is None:
            total = run.xp.zeros((*shares.shape[:-1], self.out.width), dtype=shares.dtype)
        return total.reshape(*shares.shape[:-1], self.out.width)
