"""Whether a tensor of the model can be written into a checkpoint so that it is read back bit for bit."""

from __future__ import annotations

import numpy as np

from ggq.models.combined import Stack
from ggq.models.expression import Expression, Shapes
from ggq.models.names import Interleaved, Matrix, Plus, Rows, Taps, Tensor, Transposed, Unary

MOVED = (Rows, Interleaved, Matrix, Taps, Transposed, Plus)
"""Expressions of one other that put its numbers elsewhere, or add something to them."""


def exact(expression: Expression) -> bool:
    """Whether every number of it is a number of the checkpoint, moved, or with something added to it."""
    if isinstance(expression, Stack):
        return all(map(exact, expression.parts))
    if isinstance(expression, Tensor):
        return True
    return isinstance(expression, MOVED) and exact(expression.expression)


def through_source(expression: Expression, numbers: np.ndarray, shapes: Shapes) -> np.ndarray:
    """Numbers as they are after they were written into a checkpoint of f32 and read again.

    Args:
        expression: An `exact` one.
        numbers: float32, in its shape.
        shapes: Shapes of source tensors.
    """
    added = _added(expression)
    if added is None:
        return numbers
    return (numbers - np.float32(added)) + np.float32(added)


def _added(expression: Expression) -> float | None:
    """What is added to the numbers of the checkpoint."""
    if isinstance(expression, Plus):
        return expression.amount
    return _added(expression.expression) if isinstance(expression, Unary) else None
