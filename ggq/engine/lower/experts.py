"""Experts become products of the rows that go through each: gathered, multiplied, added to the sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ggq.engine.lower.ops import AddShares, Assign, Gather
from ggq.engine.lower.rules import Target
from ggq.engine.weights import Weights
from ggq.tape.ops import Activate, Experts, Gate, Linear, Operation
from ggq.tape.program import Buffer, Program


def spread_experts(program: Program, target: Target) -> Program:
    """Each expert is a feed-forward of its own, of as many rows as go through it; with none it costs nothing."""
    ops = [each for op in program.ops for each in (_spread(op, target.weights) if isinstance(op, Experts) else [op])]
    return replace(program, ops=tuple(ops))


def with_widest_expert(program: Program, weights: Weights) -> Program:
    """The program with one expert of each layer, the widest: as one is computed after the other, it needs as much
    memory as all."""
    ops = [each for op in program.ops for each in (_spread(op, weights, 1) if isinstance(op, Experts) else [op])]
    return replace(program, ops=tuple(ops))


def _spread(op: Experts, weights: Weights, most: int | None = None) -> Iterator[Operation]:
    """The operations of all experts, or of so many of the widest."""
    yield Assign(op.shares, op.out)
    experts = range(len(op.downs))
    chosen = experts if most is None else sorted(experts, key=lambda each: -weights.shape(op.ups[each])[0])[:most]
    for expert in chosen:
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
