"""From the tensors of a model back to those of its checkpoint: expressions solved for what they are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.errors import UnsupportedError
from ggq.models.combined import Joined, Stack
from ggq.models.names import (
    Expression,
    Extended,
    Interleaved,
    Matrix,
    Picked,
    Plus,
    Row,
    Rows,
    Scalar,
    Taps,
    Tensor,
    Times,
    Transposed,
    Unary,
)

Numbers = NDArray[np.float32]


def restored(pieces: Iterable[tuple[Expression, Numbers]]) -> dict[str, Numbers]:
    """The source tensors that some expressions are made of.

    Args:
        pieces: Expressions with what they are equal to, float32 in its shape; together they use every number of their
            sources, and none twice.

    Raises:
        UnsupportedError: An expression that cannot be solved, such as a sum.
    """
    left = list(pieces)
    while deepest := max((_depth(expression) for expression, _ in left), default=0):
        parts: dict[Expression, list[tuple[Picked, Numbers]]] = {}
        stacks: dict[Expression, dict[int, Numbers]] = {}
        inner: list[tuple[Expression, Numbers]] = []
        for expression, numbers in left:
            if _depth(expression) < deepest:  # others may be parts of the same source
                inner.append((expression, numbers))
            elif isinstance(expression, Picked):
                parts.setdefault(expression.expression, []).append((expression, numbers))
            elif isinstance(expression, Matrix | Row):
                stacks.setdefault(expression.expression, {})[expression.index] = numbers
            else:
                inner += _solved(expression, numbers)
        inner += ((whole, np.stack([found[i] for i in sorted(found)])) for whole, found in stacks.items())
        left = [*inner, *((expression, _joined(picks)) for expression, picks in parts.items())]
    return {
        expression.names()[0]: numbers.reshape(()) if isinstance(expression, Scalar) else numbers
        for expression, numbers in left
    }


def _depth(expression: Expression) -> int:
    """How many expressions are around its innermost tensor."""
    if isinstance(expression, Unary):
        return 1 + _depth(expression.expression)
    if isinstance(expression, Stack | Joined):
        return 1 + max(map(_depth, expression.parts))
    return int(not isinstance(expression, Tensor | Scalar))


def _solved(expression: Expression, numbers: Numbers) -> list[tuple[Expression, Numbers]]:
    """What an expression's parts are equal to."""
    if isinstance(expression, Plus):
        return [(expression.expression, numbers - np.float32(expression.amount))]
    if isinstance(expression, Times):
        column = expression.column()
        return [(expression.expression, numbers / (column[:, 0] if numbers.ndim == 1 else column))]
    if isinstance(expression, Transposed):
        return [(expression.expression, np.ascontiguousarray(np.swapaxes(numbers, -1, -2)))]
    if isinstance(expression, Extended):
        return [(expression.expression, numbers[: expression.held])]
    if isinstance(expression, Taps) and expression.taps:
        return [(expression.expression, np.ascontiguousarray(numbers.reshape(expression.taps, -1).T)[:, None])]
    if isinstance(expression, Joined):
        ends = np.cumsum(expression.heights)[:-1]
        return list(zip(expression.parts, np.split(numbers, ends), strict=True))
    if isinstance(expression, Stack):
        return [(part, numbers[i]) for i, part in enumerate(expression.parts)]
    raise UnsupportedError(f"what {expression} is made of cannot be told from it")


def _joined(picks: list[tuple[Picked, Numbers]]) -> Numbers:
    """Rows that were taken out of one expression, put back in their places."""
    axes: list[tuple[int, NDArray[np.int64], Numbers]] = []
    total = 0
    for pick, numbers in picks:
        axis = max(0, numbers.ndim - 2)
        length = _length(pick, numbers.shape[axis])
        total = max(total, length)
        axes.append((axis, pick.picked(length), numbers))
    axis, _, first = axes[0]
    out = np.zeros((*first.shape[:axis], total, *first.shape[axis + 1 :]), np.float32)
    for axis, places, numbers in axes:
        index: list[Any] = [slice(None)] * out.ndim
        index[axis] = places
        out[tuple(index)] = numbers
    return out


def _length(pick: Picked, count: int) -> int:
    """How many rows there are, at least, of which `count` were picked."""
    if isinstance(pick, Rows):
        return pick.stop
    if isinstance(pick, Interleaved):
        return count // (pick.stop - pick.start) * pick.period
    raise UnsupportedError(f"what {pick} is made of cannot be told from it")
