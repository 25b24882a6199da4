"""What a stored tensor is made of: an expression of the tensors of a checkpoint, read by rows as float32.

Every dimension but the last counts as rows: a tensor of shape (experts, rows, columns) has experts * rows of them, and
one of a single dimension is one row. Whoever reads asks for blocks of rows; an expression keeps no more in memory than
the block and one piece of PIECE_NUMBERS numbers, whatever the size of the source.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ggq.models.expression import (
    Expression,
    Floats,
    Mask,
    Shape,
    Shapes,
    Source,
    Use,
    between,
    matrices,
    misfit,
    piece_rows,
)

GAP_NUMBERS = 1 << 16
"""Numbers between two wanted rows, at most, that are read along with them: opening the file again takes as long."""


@dataclass(frozen=True)
class Tensor(Expression):
    """A tensor of the checkpoint as it is."""

    name: str

    def __str__(self) -> str:
        return self.name

    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def whole(self) -> str | None:
        return self.name

    def shape(self, shapes: Shapes) -> Shape:
        return shapes(self.name)

    def rows(self, source: Source, start: int, stop: int, out: Floats | None = None) -> Floats:
        return source.rows(self.name, start, stop, out)

    def fill(self, source: Source, start: int, out: Floats) -> None:
        source.rows(self.name, start, start + len(out), out)

    def reach(self, shapes: Shapes, rows: Mask, columns: Mask) -> Iterator[Use]:
        yield Use(self.name, rows, columns)


@dataclass(frozen=True)
class Scalar(Expression):
    """A tensor of one number, of no or of one dimension, as one of one dimension."""

    name: str

    def __str__(self) -> str:
        return self.name

    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def whole(self) -> str | None:
        return self.name

    def shape(self, shapes: Shapes) -> Shape:
        if (found := shapes(self.name)) not in ((), (1,)):
            raise misfit(self, f"shape {list(found)} found, one number expected")
        return (1,)

    def fill(self, source: Source, start: int, out: Floats) -> None:
        source.rows(self.name, start, start + len(out), out)

    def reach(self, shapes: Shapes, rows: Mask, columns: Mask) -> Iterator[Use]:
        yield Use(self.name, rows, columns)


@dataclass(frozen=True)
class Unary(Expression):
    """What is made of one expression; as it stands, of the same shape and of the same parts of its sources."""

    expression: Expression

    def names(self) -> tuple[str, ...]:
        return self.expression.names()

    def whole(self) -> str | None:
        return self.expression.whole()

    def shape(self, shapes: Shapes) -> Shape:
        return self.expression.shape(shapes)

    def reach(self, shapes: Shapes, rows: Mask, columns: Mask) -> Iterator[Use]:
        return self.expression.reach(shapes, rows, columns)


@dataclass(frozen=True)
class Picked(Unary):
    """Some rows of each matrix of an expression, ascending; of an expression of one dimension, some of its numbers."""

    @abstractmethod
    def picked(self, length: int) -> NDArray[np.int64]:
        """The numbers of the rows that are kept, of so many."""

    def whole(self) -> str | None:
        return None

    def shape(self, shapes: Shapes) -> Shape:
        inner = self.expression.shape(shapes)
        if not inner:
            raise misfit(self, "a single number found, rows expected")
        axis = max(0, len(inner) - 2)
        return (*inner[:axis], len(self.picked(inner[axis])), *inner[axis + 1 :])

    def fill(self, source: Source, start: int, out: Floats) -> None:
        inner = self.expression.shape(source.shape)
        if len(inner) == 1:
            out[...] = self.expression.rows(source, 0, 1)[:, self.picked(inner[0])]
            return
        kept = self.picked(inner[-2])
        matrix, row = np.divmod(np.arange(start, start + len(out)), len(kept))
        _gather(self.expression, source, matrix * inner[-2] + kept[row], out)

    def reach(self, shapes: Shapes, rows: Mask, columns: Mask) -> Iterator[Use]:
        inner = self.expression.shape(shapes)
        flat = len(inner) == 1
        mask = np.zeros(inner[0] if flat else inner[-2], np.bool_)
        mask[self.picked(len(mask))[columns if flat else rows]] = True
        return self.expression.reach(shapes, rows if flat else mask, mask if flat else columns)


@dataclass(frozen=True)
class Rows(Picked):
    """Rows from `start` to before `stop`, such as one matrix of several that a checkpoint keeps below each other."""

    start: int
    stop: int

    def __str__(self) -> str:
        return f"{between(self.expression)}[{self.start}:{self.stop}]"

    def picked(self, length: int) -> NDArray[np.int64]:
        if not 0 <= self.start < self.stop <= length:
            raise misfit(self, f"{length} rows found, rows {self.start} to {self.stop - 1} expected")
        return np.arange(self.start, self.stop)


@dataclass(frozen=True)
class Interleaved(Picked):
    """Rows from `start` to before `stop` of every `period` rows.

    Query, key and value of GPT-NeoX are `period` = 3 * head_dim, a head after the other; gate and up of gpt-oss take
    turns, `period` = 2.
    """

    period: int
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{between(self.expression)}[{self.start}:{self.stop} of every {self.period}]"

    def picked(self, length: int) -> NDArray[np.int64]:
        if not 0 <= self.start < self.stop <= self.period:
            raise misfit(self, f"rows {self.start} to {self.stop - 1} of every {self.period} cannot be taken")
        if not length or length % self.period:
            raise misfit(self, f"{length} rows found, a multiple of {self.period} expected")
        return (np.arange(0, length, self.period)[:, None] + np.arange(self.start, self.stop)).reshape(-1)


@dataclass(frozen=True)
class Indexed(Unary):
    """One of what a source tensor has along its first dimension."""

    expression: Tensor
    index: int
    dimensions: ClassVar[int]
    parts: ClassVar[str]

    def __str__(self) -> str:
        return f"{self.expression}[{self.index}]"

    def whole(self) -> str | None:
        return None

    def shape(self, shapes: Shapes) -> Shape:
        inner = self.expression.shape(shapes)
        if len(inner) != self.dimensions or not 0 <= self.index < inner[0]:
            raise misfit(self, f"shape {list(inner)} found, {self.index + 1} {self.parts} or more expected")
        return inner[1:]


@dataclass(frozen=True)
class Matrix(Indexed):
    """One matrix of a source tensor of three dimensions, such as an expert of a stack."""

    dimensions, parts = 3, "matrices"

    def fill(self, source: Source, start: int, out: Floats) -> None:
        self.expression.fill(source, self.index * self.shape(source.shape)[0] + start, out)

    def reach(self, shapes: Shapes, rows: Mask, columns: Mask) -> Iterator[Use]:
        return (use._replace(matrix=self.index) for use in self.expression.reach(shapes, rows, columns))


@dataclass(frozen=True)
class Row(Indexed):
    """One row of a matrix as a tensor of one dimension, such as the bias of an expert of a stack."""

    dimensions, parts = 2, "rows"

    def fill(self, source: Source, start: int, out: Floats) -> None:
        self.expression.fill(source, self.index, out)

    def reach(self, shapes: Shapes, rows: Mask, columns: Mask) -> Iterator[Use]:
        mine = np.zeros(self.expression.shape(shapes)[0], np.bool_)
        mine[self.index] = True
        return self.expression.reach(shapes, mine, columns)


@dataclass(frozen=True)
class Transposed(Unary):
    """Rows and columns exchanged, as GPT-2's Conv1D has them; in a tensor of more dimensions those of each matrix.

    A block of rows is a block of columns of the source, all of whose rows are read for it: n blocks of a matrix read it
    n times. Memory stays at the block and one piece.
    """

    def __str__(self) -> str:
        return f"transposed({self.expression})"

    def shape(self, shapes: Shapes) -> Shape:
        inner = self.expression.shape(shapes)
        if len(inner) < 2:
            raise misfit(self, f"shape {list(inner)} found, a matrix expected")
        return (*inner[:-2], inner[-1], inner[-2])

    def fill(self, source: Source, start: int, out: Floats) -> None:
        _, rows, columns = matrices(self.expression.shape(source.shape))
        step, done = piece_rows(columns), 0
        while done < len(out):
            matrix, first = divmod(start + done, columns)
            count = min(columns - first, len(out) - done)
            for at in range(0, rows, step):
                end = min(at + step, rows)
                piece = self.expression.rows(source, matrix * rows + at, matrix * rows + end)
                out[done : done + count, at:end] = piece[:, first : first + count].T
            done += count

    def reach(self, shapes: Shapes, rows: Mask, columns: Mask) -> Iterator[Use]:
        return self.expression.reach(shapes, columns, rows)


@dataclass(frozen=True)
class Extended(Unary):
    """A matrix of `held` rows as one of `rows`: those that it does not have are its first, as for tokens that a smaller
    table does not know."""

    held: int
    count: int

    def __str__(self) -> str:
        return f"extended({self.expression}, {self.count})"

    def whole(self) -> str | None:
        return None

    def shape(self, shapes: Shapes) -> Shape:
        inner = self.expression.shape(shapes)
        if len(inner) != 2 or inner[0] != self.held:
            raise misfit(self, f"shape {list(inner)} found, {self.held} rows expected")
        return (self.count, inner[1])

    def fill(self, source: Source, start: int, out: Floats) -> None:
        own = max(0, min(self.held - start, len(out)))
        if own:
            self.expression.fill(source, start, out[:own])
        if own < len(out):
            out[own:] = self.expression.rows(source, 0, 1)

    def reach(self, shapes: Shapes, rows: Mask, columns: Mask) -> Iterator[Use]:
        mine = rows[: self.held].copy()
        mine[0] |= bool(rows[self.held :].any())
        return self.expression.reach(shapes, mine, columns)


@dataclass(frozen=True)
class Reshaped(Unary):
    """All numbers of an expression, in other rows and columns."""

    def reach(self, shapes: Shapes, rows: Mask, columns: Mask) -> Iterator[Use]:
        _, height, width = matrices(self.expression.shape(shapes))
        return self.expression.reach(shapes, np.ones(height, np.bool_), np.ones(width, np.bool_))


@dataclass(frozen=True)
class Taps(Reshaped):
    """The weights of a convolution of each channel by itself, (channels, 1, reach), as one row: first the channels'
    weights of the oldest input.

    Args:
        taps: How many weights a channel has, to give them back by channels.
    """

    taps: int = 0

    def __str__(self) -> str:
        return f"taps({self.expression})"

    def whole(self) -> str | None:
        return None

    def shape(self, shapes: Shapes) -> Shape:
        inner = self.expression.shape(shapes)
        if len(inner) != 3 or inner[1] != 1:
            raise misfit(self, f"shape {list(inner)} found, weights of each channel by itself expected")
        return (inner[0] * inner[2],)

    def fill(self, source: Source, start: int, out: Floats) -> None:
        channels, _, taps = self.expression.shape(source.shape)
        out[...] = self.expression.rows(source, 0, channels).reshape(channels, taps).T.reshape(1, -1)


@dataclass(frozen=True)
class Flattened(Reshaped):
    """All dimensions but the first as the columns of one matrix, such as the kernels of a convolution."""

    def __str__(self) -> str:
        return f"flattened({self.expression})"

    def shape(self, shapes: Shapes) -> Shape:
        inner = self.expression.shape(shapes)
        if len(inner) < 2:
            raise misfit(self, f"shape {list(inner)} found, two dimensions or more expected")
        return (inner[0], prod(inner[1:]))

    def fill(self, source: Source, start: int, out: Floats) -> None:
        inner = self.expression.shape(source.shape)
        rows = prod(inner[1:-1])
        self.expression.fill(source, start * rows, out.reshape(-1, inner[-1]))


@dataclass(frozen=True)
class Plus(Unary):
    """Every number and an amount, rounded to float32, such as the weights of Gemma's norms, which are stored less 1."""

    compound = True

    amount: float = 1.0

    def __str__(self) -> str:
        return f"{between(self.expression)} + {self.amount:.9g}"

    def fill(self, source: Source, start: int, out: Floats) -> None:
        self.expression.fill(source, start, out)
        out += np.float32(self.amount)


@dataclass(frozen=True)
class Times(Unary):
    """Every row, or every number of a tensor of one dimension, times a factor, rounded to float32.

    Args:
        factors: The factor of all rows before each number, ascending: ((24, 0.5), (30, 2.0)) for 30 rows.
    """

    factors: tuple[tuple[int, float], ...]

    def __str__(self) -> str:
        return f"{' or '.join(f'{factor:.9g}' for _, factor in self.factors)} * {between(self.expression)}"

    def column(self) -> Floats:
        """The factor of each row, (rows, 1)."""
        ends = [0, *(stop for stop, _ in self.factors)]
        counts = np.diff(ends)
        return np.repeat(np.array([factor for _, factor in self.factors], np.float32), counts)[:, None]

    def fill(self, source: Source, start: int, out: Floats) -> None:
        self.expression.fill(source, start, out)
        column = self.column()
        out *= column.T if len(self.expression.shape(source.shape)) == 1 else column[start : start + len(out)]


def _gather(expression: Expression, source: Source, numbers: NDArray[np.int64], out: Floats) -> None:
    """Rows by their numbers, ascending, into float32 (rows, columns)."""
    gap, most = max(1, GAP_NUMBERS // out.shape[1]), piece_rows(out.shape[1])
    ends = [*(np.flatnonzero(np.diff(numbers) > gap) + 1).tolist(), len(numbers)]
    for at, end in zip([0, *ends], ends):
        first, last = int(numbers[at]), int(numbers[end - 1])
        if last - first == end - at - 1:  # all that lies between them is wanted
            expression.fill(source, first, out[at:end])
            continue
        for begin in range(first, last + 1, most):
            stop = min(begin + most, last + 1)
            low, high = np.searchsorted(numbers, (begin, stop)).tolist()
            if low < high:
                out[low:high] = expression.rows(source, begin, stop)[numbers[low:high] - begin]


__all__ = [
    "Expression",
    "Extended",
    "Interleaved",
    "Matrix",
    "Plus",
    "Row",
    "Rows",
    "Scalar",
    "Source",
    "Taps",
    "Tensor",
    "Times",
    "Transposed",
    "Use",
    "matrices",
]
