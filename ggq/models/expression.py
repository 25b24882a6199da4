"""Expressions: numbers that are made of source tensors and read by rows; their kinds are in `ggq.models.names` and
`ggq.models.combined`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from math import prod
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ggq.errors import ConvertError

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Shape = tuple[int, ...]
Shapes = Callable[[str], Shape]
"""The shape of a source tensor by its name."""


PIECE_NUMBERS = 1 << 20
"""Numbers of a source, about, that are read at once where a block of the result needs more than it keeps."""


class Source(Protocol):
    """Where the numbers of source tensors come from, such as a checkpoint."""

    def shape(self, name: str) -> Shape:
        """The dimensions of a tensor."""
        ...

    def rows(self, name: str, start: int, stop: int, out: Floats | None = None) -> Floats:
        """Rows of a tensor as float32 (stop - start, columns): in `out` where that is given, else in new memory."""
        ...


class Use(NamedTuple):
    """A part of a source tensor: where its rows meet its columns, in every matrix of a tensor of more dimensions.

    Args:
        name: Of the source tensor.
        rows: bool (rows of a matrix,); (1,) for a tensor of one dimension.
        columns: bool (columns,).
        matrix: The one matrix of a tensor of three dimensions; None for every one.
    """

    name: str
    rows: Mask
    columns: Mask
    matrix: int | None = None


class Expression(ABC):
    """Numbers made of source tensors. `str()` is what people read and what a conversion's fingerprint keeps."""

    compound: ClassVar[bool] = False
    """Whether it would be read in another way inside another one without parentheses."""

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The source tensors, in the order in which they are read."""

    @abstractmethod
    def shape(self, shapes: Shapes) -> Shape:
        """The dimensions of the result.

        Raises:
            ConvertError: The source tensors do not fit each other or the expression; it names the tensor.
        """

    @abstractmethod
    def fill(self, source: Source, start: int, out: Floats) -> None:
        """Compute the rows from `start` on into float32 (rows, columns)."""

    @abstractmethod
    def reach(self, shapes: Shapes, rows: Mask, columns: Mask) -> Iterator[Use]:
        """The parts of source tensors that rows and columns of the result are made of; see `Use`."""

    def whole(self) -> str | None:
        """The one source tensor that this is in a changed form; None where it is a part of one, or made of several."""
        return None

    def rows(self, source: Source, start: int, stop: int, out: Floats | None = None) -> Floats:
        """Rows of the result.

        Args:
            source: Where the tensors are read.
            start: First row.
            stop: Behind the last row.
            out: float32 (stop - start, columns), C-contiguous, to be filled; new memory by default.

        Returns:
            float32 (stop - start, columns).
        """
        if out is None:
            out = np.empty((stop - start, self.shape(source.shape)[-1]), np.float32)
        self.fill(source, start, out)
        return out

    def uses(self, shapes: Shapes) -> Iterator[Use]:
        """The parts of source tensors that the result is made of."""
        _, rows, columns = matrices(self.shape(shapes))
        return self.reach(shapes, np.ones(rows, np.bool_), np.ones(columns, np.bool_))


def matrices(shape: Shape) -> tuple[int, int, int]:
    """How many matrices a tensor of this shape holds, and the rows and columns of each."""
    return (1, 1, prod(shape)) if len(shape) <= 1 else (prod(shape[:-2]), shape[-2], shape[-1])


def piece_rows(columns: int) -> int:
    """How many rows of so many columns are read at once, where more would have to be kept."""
    return max(1, PIECE_NUMBERS // columns)


def misfit(expression: Expression, problem: str) -> ConvertError:
    """The refusal of source tensors that do not fit."""
    return ConvertError(problem, where=f"tensor {expression.names()[0]}")


def between(expression: Expression) -> str:
    """An expression inside another, between parentheses where it would be read in another way without."""
    return f"({expression})" if expression.compound else str(expression)
