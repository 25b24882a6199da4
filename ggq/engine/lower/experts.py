"""Experts become products of the rows that go through each: gathered, multiplied, added to the sum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

from ggq.engine.lower.ops import AddShares, Assign, Gather
from ggq.engine.lower.rules import Target
from ggq.engine.weights import Weights
from ggq.tape.ops import Activate, Experts, Gate, Linear, Operation
from ggq.tape.program import Buffer, Program


def spread_experts(program: Program, target: Target) -> Program:
    """Each expert is a feed-forward of its own, of as many rows as go through it; with none it costs nothing. Unless
    every one is asked for, those that `ggq.engine.repeated` makes from their neighbours are left out."""
    ops: list[Operation] = []
    for op in program.ops:
        if isinstance(op, Experts):
            experts = range(len(op.downs))
            ops += _spread(op, target.weights, experts if target.every else _shown(op, target.weights))
        else:
            ops.append(op)
    return replace(program, ops=tuple(ops))


def _shown(op: Experts, weights: Weights) -> list[int]:
    """The experts by their numbers, without those between the second and the last of a stretch whose matrices lie one
    behind the other in stacks: a jump of the numbers stands for them."""
    matrices = [roles for roles in (op.gates, op.ups, op.downs) if roles]
    biased = any(op.gate_biases) or any(op.up_biases) or any(op.down_biases)  # each a tensor of its own
    places = [None if biased else [weights.place(roles[i]) for roles in matrices] for i in range(len(op.downs))]
    alike = [
        here is not None and before is not None and all(a and b and b == (a[0], a[1] + 1) for a, b in zip(before, here))
        for before, here in pairwise(places)
    ]  # alike[i]: expert i + 1 lies behind expert i
    return [
        i for i in range(len(places)) if not (i >= 2 and i < len(alike) and alike[i - 2] and alike[i - 1] and alike[i])
    ]


def with_widest_expert(program: Program, weights: Weights) -> Program:
    """The program with one expert of each layer, the widest: as one is computed after the other, it needs as much
    memory as all."""
    ops = [each for op in program.ops for each in (_widest(op, weights) if isinstance(op, Experts) else [op])]
    return replace(program, ops=tuple(ops))


def _widest(op: Experts, weights: Weights) -> Iterator[Operation]:
    widths = [weights.shape(role)[0] for role in op.ups]
    return _spread(op, weights, [widths.index(max(widths))])


def _spread(op: Experts, weights: Weights, experts: Iterable[int]) -> Iterator[Operation]:
    """The operations of some experts."""
    yield Assign(op.shares, op.out)
    for expert in experts:
        up, down = op.ups[expert], op.downs[expert]
        rows, width = f"{op.source.rows}.{expert}", weights.shape(up)[0]
        biases = [each[expert] if each else None for each in (op.gate_biases, op.up_biases, op.down_biases)]

        def buffer(name: str, width: int, rows: str = rows) -> Buffer:
            return Buffer(f"expert_{name}_{width}", width, rows)

        mine = buffer("source", op.source.width)
        yield Gather(op.source, op.shares, mine)
        first, second, between = (buffer(name, width) for name in ("gate", "up", "gated"))
        if op.gates:
            yield Linear(mine, (op.gates[expert], up), tuple(biases[:2]), (first, second))
            yield Gate(first, second, between, op.activation)
        else:
            yield Linear(mine, (up,), (biases[1],), (second,))
            yield Activate(second, between, op.activation)
        result = buffer("result", op.out.width)
        yield Linear(between, (down,), (biases[2],), (result,))
        yield AddShares(result, op.shares, op.out)
