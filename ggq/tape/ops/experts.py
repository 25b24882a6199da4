"""Feed-forwards of which each row goes through a few."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from ggq.tape.buffers import Buffer
from ggq.tape.ops.activations import ACTIVATIONS, GATES, WITHOUT_GATE, check_activation, gate_function
from ggq.tape.ops.operation import WEIGHT, Operation, Product, Read, Write
from ggq.tape.passes import Array, Backward, Forward, Oracle, Values


@dataclass(frozen=True, eq=False)
class Experts(Operation):
    """out = sum over experts e of shares[e] * downs[e](gate(gates[e](source), ups[e](source))).

    A row goes through the experts whose share is not 0, in their order; the matrices of the others are not read for it.

    Args:
        source, out: A row before and behind.
        shares: Of each expert.
        gates, ups, downs: Matrices, expert by expert; without gates it is downs[e](activation(ups[e](source))).
        activation: What gates, or one of WITHOUT_GATE.
        gate_biases, up_biases, down_biases: Biases, expert by expert, or none.
    """

    name: ClassVar[str] = "experts"
    source: Read
    shares: Read
    gates: Annotated[tuple[str, ...], WEIGHT]
    ups: Annotated[tuple[str, ...], WEIGHT]
    downs: Annotated[tuple[str, ...], WEIGHT]
    out: Write
    activation: str
    gate_biases: Annotated[tuple[str, ...], WEIGHT] = ()
    up_biases: Annotated[tuple[str, ...], WEIGHT] = ()
    down_biases: Annotated[tuple[str, ...], WEIGHT] = ()

    def __post_init__(self) -> None:
        check_activation(self.activation, GATES if self.gates else WITHOUT_GATE)

    def inner_products(self) -> tuple[Product, ...]:
        """See `Operation`; an expert's first matrices meet one input, and the last what these make."""
        return tuple(product for expert in range(len(self.downs)) for product in self._products(expert))

    def _products(self, expert: int) -> tuple[Product, Product]:
        """Those of one expert; how wide the second's source is, its matrix alone says."""
        roles, inner = self._roles(expert), Buffer("expert_inner", 0)
        first = Product(self.source, roles, (None,) * len(roles), (), False)
        return first, Product(inner, (self.downs[expert],), (None,), (self.out,), False)

    def forward(self, run: Forward) -> None:
        """See `Operation`; each matrix is observed with the rows of its expert alone."""
        source = run[self.source]
        firsts = {self._roles(expert)[0]: expert for expert in range(len(self.downs))}
        lasts = {role: expert for expert, role in enumerate(self.downs)}

        def product(role: str, x: Array) -> Array:
            if role in firsts or role in lasts:
                expert = firsts[role] if role in firsts else lasts[role]
                run.observe(self._products(expert)[role in lasts], x)
            return x @ run.weight(role).T

        self._sum(run, source.reshape(-1, source.shape[-1]), product)

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        source = run[self.source]
        flat, slope = source.reshape(-1, source.shape[-1]), run.take(self.out)
        slope = slope.reshape(-1, slope.shape[-1])
        to_source, to_shares = run.xp.zeros_like(flat), run.xp.zeros_like(self._shares(run))
        product = lambda role, x: x @ run.weight(role).T  # noqa: E731
        for expert, rows in self._rows(run):
            x, share = flat[rows], self._shares(run)[rows, expert][:, None]
            first = self._first(run, expert, x, product)
            inner = self._inner(run, first)
            made = self._biased(run, self.down_biases, expert, product(self.downs[expert], inner))
            to_shares[rows, expert] = (slope[rows] * made).sum(-1)
            scaled = slope[rows] * share
            run.meet(self.downs[expert], inner, scaled, rows)
            back = scaled @ run.weight(self.downs[expert])
            for role, each in zip(self._roles(expert), self._slopes(run, first), strict=True):
                run.meet(role, x, back * each, rows)
                to_source[rows] = to_source[rows] + (back * each) @ run.weight(role)
        run.add(self.source, to_source.reshape(source.shape))
        run.add(self.shares, to_shares.reshape(run[self.shares].shape))

    def oracle(self, run: Oracle) -> None:
        """Each matrix meets the rows of its expert alone, transformed and rounded as it asks for."""

        def product(role: str, x: Array) -> Array:
            x, numbers = run.rounded(run.stored(role), x)
            return x @ numbers.astype(np.float64).T

        self._sum(run, run[self.source], product)

    def _sum(self, run: Forward, source: Array, product: Callable[[str, Array], Array]) -> None:
        """Write the sum of the experts' results, given how a matrix meets rows."""
        total = None
        for expert, rows in self._rows(run):
            inner = self._inner(run, self._first(run, expert, source[rows], product))
            made = self._biased(run, self.down_biases, expert, product(self.downs[expert], inner))
            total = self._added(run, total, expert, rows, made)
        run[self.out] = self._result(run, total)

    def _roles(self, expert: int) -> tuple[str, ...]:
        """The matrices that meet the source: gate and up, or up alone."""
        return (self.gates[expert], self.ups[expert]) if self.gates else (self.ups[expert],)

    def _first(self, run: Values, expert: int, x: Array, product: Callable[[str, Array], Array]) -> list[Array]:
        """What these matrices make of rows."""
        biases = (self.gate_biases, self.up_biases) if self.gates else (self.up_biases,)
        found = zip(self._roles(expert), biases, strict=True)
        return [self._biased(run, each, expert, product(role, x)) for role, each in found]

    def _inner(self, run: Values, first: list[Array]) -> Array:
        """What the last matrix meets."""
        if not self.gates:
            return ACTIVATIONS[self.activation].value(run.xp, first[0])
        return gate_function(self.activation).value(run.xp, *first)

    def _slopes(self, run: Values, first: list[Array]) -> tuple[Array, ...]:
        """Its derivatives by what these matrices made."""
        if not self.gates:
            return (ACTIVATIONS[self.activation].slope(run.xp, first[0]),)
        return gate_function(self.activation).slopes(run.xp, *first)

    def _biased(self, run: Values, biases: tuple[str, ...], expert: int, x: Array) -> Array:
        return x + run.weight(biases[expert]) if biases else x

    def _shares(self, run: Values) -> Array:
        shares = run[self.shares]
        return shares.reshape(-1, shares.shape[-1])

    def _rows(self, run: Values) -> list[tuple[int, Array]]:
        """The experts that some rows go through, and these rows."""
        chosen = self._shares(run) != 0
        found = ((expert, run.xp.nonzero(chosen[:, expert])[0]) for expert in range(len(self.downs)))
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
