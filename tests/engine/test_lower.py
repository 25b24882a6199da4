"""Lowering: each rule on its own, on programs of a few operations."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ggq.engine.emit import EMITTERS, emit
from ggq.engine.lower import RULES, Target, lower
from ggq.engine.lower.ops import Halve, Multiply, Rearrange, Round, RoundGate
from ggq.engine.lower.rules import join_gates, round_inputs, split_kinds
from ggq.errors import UnsupportedError
from ggq.quant import parse_scheme
from ggq.tape.ops import OPS, Experts, Gate, Linear, Norm, Operation, Select
from ggq.tape.program import Buffer, Inputs, Program

X, Y, Z, UP, GATED = (Buffer(name, 64) for name in ("x", "y", "z", "up", "gated"))


class Weights:
    """Matrices by role: "q4", "q8", "f16", "moved" (with an order of columns), "static"."""

    def matrix(self, role: str) -> Any:
        kind = role.split(".")[0]
        order = 4096 if kind == "moved" else 0
        form = "static" if kind == "static" else "group"
        value = "f16" if kind == "f16" else ""
        whole = (kind, order, form)
        return SimpleNamespace(
            kind=whole, value=value, columns=128, order=order, column_scale=0, activations=form, activation_step=0.5
        )

    def scheme(self, role: str) -> Any:
        return parse_scheme({"q8": "q8-row", "f16": "f16"}.get(role.split(".")[0], "q4-g32"))


def program(*ops: Operation, out: Buffer = Z) -> Program:
    return Program(ops, Inputs(8, 8), {"logits": out})


def linear(source: Buffer, *roles: str, out: Buffer = Y, add: bool = False) -> Linear:
    return Linear(source, roles, tuple(None for _ in roles), tuple(replace(out, name=out.name + r) for r in roles), add)


INT8, FLOATS, BF16 = (Target(Weights(), *how) for how in ((True, False), (False, False), (True, True)))  # type: ignore[arg-type]


def names(found: Program) -> list[str]:
    return [type(op).__name__ for op in found.ops]


def test_a_product_is_split_by_the_kinds_of_its_matrices() -> None:
    found = split_kinds(program(linear(X, "q4.a", "q8.b", "q4.c", add=True)), INT8)
    assert [op.weights for op in found.ops if isinstance(op, Multiply)] == [("q4.a", "q4.c"), ("q8.b",)]
    assert all(isinstance(op, Multiply) and op.add and op.source == X for op in found.ops)
    assert found.ops[0].writes() == (Buffer("yq4.a", 64), Buffer("yq4.c", 64))


def test_inputs_are_rounded_once_until_they_change() -> None:
    norm = Norm(Y, "n", X, 1e-5)
    whole = program(norm, linear(X, "q4.a"), linear(X, "q4.b"), norm, linear(X, "q4.c"))
    found = round_inputs(split_kinds(whole, INT8), INT8)
    assert names(found) == ["Norm", "Round", "Multiply", "Multiply", "Norm", "Round", "Multiply"]
    rounded = found.ops[1]
    assert isinstance(rounded, Round) and rounded.out.group == 32 and rounded.out.columns == 128
    assert all(op.source == rounded.out for op in found.ops if isinstance(op, Multiply))


def test_each_form_is_rounded_for_itself() -> None:
    whole = split_kinds(program(linear(X, "q4.a"), linear(X, "static.b"), linear(X, "moved.c")), INT8)
    forms = [op.out for op in round_inputs(whole, INT8).ops if isinstance(op, Round)]
    assert [(out.form, out.step, out.order) for out in forms] == [
        ("group", 0.5, 0),
        ("static", 0.5, 0),
        ("group", 0.5, 4096),
    ]
    assert len({out.name for out in forms}) == 3


def test_without_int8_only_moved_columns_take_an_operation() -> None:
    whole = split_kinds(program(linear(X, "q4.a"), linear(X, "moved.b"), linear(X, "f16.c")), FLOATS)
    found = round_inputs(whole, FLOATS)
    assert names(found) == ["Multiply", "Rearrange", "Multiply", "Multiply"]
    assert isinstance(found.ops[1], Rearrange) and found.ops[0].reads()[0] == X and found.ops[3].reads()[0] == X


def test_many_tokens_of_floats_are_halved_where_there_are_tiles_for_it() -> None:
    whole = split_kinds(program(linear(X, "f16.a"), linear(X, "f16.b")), BF16)
    found = round_inputs(whole, BF16)
    assert names(found) == ["Halve", "Multiply", "Multiply"] and isinstance(found.ops[0], Halve)
    assert all(op.source == X and op.halves == found.ops[0].out for op in found.ops if isinstance(op, Multiply))
    assert names(round_inputs(whole, INT8)) == ["Multiply", "Multiply"]


GATE = Gate(X, UP, GATED, "silu")


@pytest.mark.parametrize(
    ("ops", "out", "joined"),
    [
        ((GATE, linear(GATED, "q4.a")), Z, True),
        ((GATE, linear(GATED, "moved.a")), Z, False),  # its columns are moved first
        ((GATE, linear(GATED, "f16.a")), Z, False),  # floats are read
        ((GATE, linear(GATED, "q4.a"), Select(GATED, Z)), Z, False),  # something else reads it
        ((GATE, linear(GATED, "q4.a")), GATED, False),  # it is a result
        ((GATE, Norm(Y, "n", UP, 1e-5), linear(GATED, "q4.a")), Z, False),  # a source has changed by then
        ((GATE, linear(GATED, "q4.a"), GATE, linear(GATED, "moved.a")), Z, None),  # the first one only
    ],
)
def test_a_gate_joins_the_rounding_that_alone_reads_it(
    ops: tuple[Operation, ...], out: Buffer, joined: bool | None
) -> None:
    found = names(join_gates(round_inputs(split_kinds(program(*ops, out=out), INT8), INT8), INT8))
    assert ("RoundGate" in found, "Gate" in found) == ((True, True) if joined is None else (joined, not joined))


def test_rules_are_few_and_compose() -> None:
    assert len(RULES) <= 10
    found = lower(program(GATE, linear(GATED, "q4.a")), INT8)
    (gate, product) = found.ops
    assert isinstance(gate, RoundGate) and gate.reads() == (X, UP) and product.reads() == (gate.out,)


def test_every_operation_has_an_emitter_and_another_is_refused() -> None:
    assert set(OPS) - set(EMITTERS) == {Linear, Experts}  # which lowering replaces

    class Strange(Operation):
        name = "strange"

    with pytest.raises(UnsupportedError, match="no kernel computes the operation Strange"):
        emit(Strange(), None)  # type: ignore[arg-type]
