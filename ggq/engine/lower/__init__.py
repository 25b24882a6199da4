"""Lowering: a program of a model becomes one of what the kernels compute, by rules that each do one thing."""

from __future__ import annotations

from collections.abc import Callable

from ggq.engine.lower.experts import spread_experts
from ggq.engine.lower.rules import Target, join_gates, round_inputs, split_kinds
from ggq.tape.program import Program

RULES: tuple[Callable[[Program, Target], Program], ...] = (spread_experts, split_kinds, round_inputs, join_gates)
"""Every rule, in the order in which they are applied."""

__all__ = ["RULES", "Target", "lower"]


def lower(program: Program, target: Target) -> Program:
    """The program as the kernels compute it.

    Args:
        program: Of a model.
        target: The model's tensors, and how activations are rounded.

    Raises:
        UnsupportedError: A scheme that no kernel multiplies.
        FormatError: An order of columns that points outside.
    """
    for rule in RULES:
        program = rule(program, target)
    return program
