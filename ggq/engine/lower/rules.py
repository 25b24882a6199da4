"""The rules of lowering: each takes a program and gives one that computes the same with operations of the kernels."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ggq.engine.lower.ops import Halve, Multiply, Rearrange, Round, Rounded, RoundGate
from ggq.engine.weights import Weights
from ggq.quant.stored import activation_group
from ggq.tape.ops import Gate, Linear, Operation
from ggq.tape.program import Buffer, Program

if TYPE_CHECKING:
    from ggq_kernels.run.calls import Packed


@dataclass(frozen=True)
class Target:
    """What lowering must know besides the program.

    Args:
        weights: The model's tensors.
        int8: Whether activations are rounded to int8 where they meet quantized matrices.
        bf16: Whether many tokens are rounded to bf16 instead.
        every: Whether every expert is written out, see `spread_experts`.
    """

    weights: Weights
    int8: bool
    bf16: bool
    every: bool = True


def split_kinds(program: Program, target: Target) -> Program:
    """A product of matrices of several kinds becomes one product for each kind."""
    ops: list[Operation] = []
    for op in program.ops:
        if not isinstance(op, Linear):
            ops.append(op)
            continue
        kinds: dict[tuple[object, ...], list[int]] = {}
        for i, role in enumerate(op.weights):
            kinds.setdefault(target.weights.matrix(role).kind, []).append(i)
        for mine in kinds.values():
            weights, outs = tuple(op.weights[i] for i in mine), tuple(op.outs[i] for i in mine)
            ops.append(Multiply(op.source, None, weights, tuple(op.biases[i] for i in mine), outs, op.add))
    return replace(program, ops=tuple(ops))


def round_inputs(program: Program, target: Target) -> Program:
    """What a product reads is rounded before it, as its matrices want it, once for all products that want the same."""
    ops: list[Operation] = []
    fresh: dict[Rounded, Buffer] = {}  # what holds the numbers of which buffer
    forms: dict[Buffer, set[Rounded]] = {}  # and the other way round

    def rounded(source: Buffer, out: Rounded, op: Operation) -> Rounded:
        if fresh.get(out) != source:
            ops.append(op)
            fresh[out] = source
            forms.setdefault(source, set()).add(out)
        return out

    for op in program.ops:
        if isinstance(op, Multiply):
            role, source = op.weights[0], op.source
            matrix = target.weights.matrix(role)
            group = activation_group(target.weights.scheme(role)) if target.int8 else 0
            if target.bf16 and matrix.value in ("f16", "bf16"):
                out = Rounded(f"{source.name}#bf16", source.width, source.rows, matrix.columns, halves=True)
                op = replace(op, halves=rounded(source, out, Halve(source, out)))
            elif group or matrix.order or matrix.column_scale:
                out = _rounded(source, matrix, group)
                kind = Round if group else Rearrange
                op = replace(op, source=rounded(source, out, kind(source, out, role)))
        ops.append(op)
        for buffer in op.writes():
            for out in forms.pop(buffer, ()):
                if fresh.get(out) == buffer:
                    del fresh[out]
    return replace(program, ops=tuple(ops))


def _rounded(source: Buffer, matrix: Packed, group: int) -> Rounded:
    """The form of a buffer that a matrix wants; equal forms are one buffer."""
    how = (matrix.order, matrix.column_scale, matrix.activations, matrix.activation_step)
    name = f"{source.name}#{group}" + ("" if how == (0, 0, "group", 0.0) else f"#{'#'.join(map(str, how))}")
    return Rounded(name, source.width, source.rows, matrix.columns, group, *how)


def join_gates(program: Program, target: Target) -> Program:
    """A gate whose result is only rounded as it is, is computed while it is rounded, and not written as floats."""
    ops: list[Operation] = list(program.ops)
    reads, writes = _places(ops, Operation.reads), _places(ops, Operation.writes)
    for place, op in enumerate(program.ops):
        if not isinstance(op, Gate):
            continue
        readers = _readers(program, place, op, reads, writes)
        if readers is None:
            continue
        for i in readers:
            read = program.ops[i]
            assert isinstance(read, Round)
            ops[i] = RoundGate(op.gate, op.up, read.out, op.activation, read.matrix, op.out.name)
        ops[place] = _Nothing()
    return replace(program, ops=tuple(op for op in ops if not isinstance(op, _Nothing)))


class _Nothing(Operation):
    """Where an operation was."""


Places = Mapping[Buffer, Sequence[int]]


def _places(ops: Sequence[Operation], touched: Callable[[Operation], Iterable[Buffer]]) -> Places:
    """Which operations touch a buffer, by their numbers, ascending."""
    found: dict[Buffer, list[int]] = {}
    for place, op in enumerate(ops):
        for buffer in dict.fromkeys(touched(op)):
            found.setdefault(buffer, []).append(place)
    return found


def _readers(program: Program, place: int, gate: Gate, reads: Places, writes: Places) -> list[int] | None:
    """The roundings that alone read what a gate writes, before its sources change; None where something else reads it
    or a rounding moves or scales its columns."""

    def behind(places: Sequence[int]) -> int | None:
        at = bisect_right(places, place)
        return places[at] if at < len(places) else None

    end = behind(writes[gate.out])
    if end is None and gate.out in program.outputs.values():
        return None
    changed = [found for buffer in (gate.gate, gate.up) if (found := behind(writes.get(buffer, ()))) is not None]
    places = reads.get(gate.out, ())
    readers = [i for i in places[bisect_right(places, place) :] if end is None or i <= end]
    for i in readers:
        op = program.ops[i]
        whole = all(i <= found for found in changed)
        if not (isinstance(op, Round) and whole and not (op.out.order or op.out.column_scale)):
            return None
    return readers
