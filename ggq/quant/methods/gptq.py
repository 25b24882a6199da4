"""GPTQ: columns are rounded one after the other, and each makes up for the errors of those before it.

The error of the product is tr(E H E'), with E the error of the weights and H = X'X. With H = R R', R upper triangular,
that is the sum of (E R)**2, and column k of E R is R[k, k] * (E[k] + sum over j < k of E[j] R[j, k] / R[k, k]). So the
best code of column k is the one nearest to w[k] + sum over j < k of E[j] R[j, k] / R[k, k], which is what GPTQ's
updates of the remaining weights come to (Chee et al. 2023, QuIP, theorem 6): no inverse is needed, one Cholesky
factor serves all rows, and each block of columns reads what it needs with one matrix product.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import SUPER_GROUP, Scheme
from ggq.quant.grid import Grid
from ggq.quant.inputs import InputStatistics
from ggq.quant.matrix import QuantizedMatrix, geometry
from ggq.quant.methods.fitted import Fitted
from ggq.quant.search.steps import best_grid, diagonal_metric, search_rows, wished_grid

DAMPING = 0.01
"""Share of the mean diagonal of H that is added to the diagonal (as the paper does)."""

BLOCK_COLUMNS = 128
"""Columns whose errors reach later columns with one matrix product."""

STRIP = 16
"""Columns of a block whose errors reach each other one by one, and later columns of the block with one product."""

STATIC_GROUP = 512
"""Groups larger than this get their steps from the weights as they were: a whole row can't be known at its start."""


class Rounds(Protocol):
    """Codes of weights (rows, k) of a group, and what they stand for: a `Grid`, or less."""

    def nearest(self, weights: NDArray[np.float32], group: int, /) -> NDArray[np.uint8]:
        """Codes."""
        ...

    def values(self, codes: NDArray[np.uint8], group: int, /) -> NDArray[np.float32]:
        """What they stand for."""
        ...


@dataclass(frozen=True, eq=False)
class Feedback:
    """How the error of each column moves what the later ones are rounded to.

    Args:
        order: int64 (columns,): the columns in the order in which they are rounded, groups whole.
        factor: float32 (columns, columns): entry [j, k], j < k, is what the error of the j-th adds to the k-th.
    """

    order: NDArray[np.int64]
    factor: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Gptq(Fitted):
    """Rounding with feedback under the statistics of the inputs.

    Groups are rounded in the order of their largest diagonal entry of H, and within a group its columns so ("activation
    order"): what is rounded late makes up for what was rounded early, so what matters goes first. Columns keep their
    places, the order of rounding is not stored. The steps of a group are searched when its turn comes, on its weights
    as the errors so far would have them; those of whole rows are searched before. `inputs` needs the gram.

    Source: Frantar et al. 2022, GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers.
    """

    name = "gptq"
    uses = frozenset({"gram"})
    requires = True
    block_weights = 1 << 24
    """Rows go together in large blocks: the work of Python is for each column, whatever the rows."""

    def quantize(self, weights: NDArray[np.float32], scheme: Scheme) -> QuantizedMatrix:
        """Choose grids and codes.

        Args:
            weights: float32 (rows, columns), finite.
            scheme: One that `supports` accepts.
        """
        assert self.inputs is not None and self.inputs.gram is not None
        work = _Work(weights, scheme, self.table(weights, scheme), self.inputs, self.compiled)
        work.run()
        return work.grid().matrix(work.codes, (weights.shape[0], weights.shape[1]))


class _Work:
    """One matrix, or some rows of it, while it is rounded; errors lie in the order of rounding."""

    def __init__(
        self,
        weights: NDArray[np.float32],
        scheme: Scheme,
        codebook: NDArray[np.int8] | None,
        inputs: InputStatistics,
        compiled: bool,
    ) -> None:
        rows, columns = weights.shape
        self.weights, self.scheme, self.codebook, self.compiled = weights, scheme, codebook, compiled
        self.sizes = geometry(scheme, (rows, columns))
        self.span = self.sizes.group * (SUPER_GROUP if scheme.subscale else 1)
        self.feedback = feedback(inputs, self.span)
        self.metric = diagonal_metric(inputs.mean_square, self.sizes)
        self.codes = np.zeros((rows, self.sizes.padded_columns), np.uint8)
        self.errors = np.zeros((rows, columns), np.float32)
        self.static = None
        if self.span > STATIC_GROUP:
            self.static = best_grid(weights, scheme, self.metric, codebook, compiled=compiled)
        self.steps = np.zeros((rows, self.sizes.groups), np.float32)
        self.shifts = np.zeros_like(self.steps) if scheme.zero in ("code", "minimum") else None

    def run(self) -> None:
        """Round all columns."""
        columns, order, factor = self.weights.shape[1], self.feedback.order, self.feedback.factor
        start = 0
        while start < columns:
            width = min(BLOCK_COLUMNS, columns - start)
            if self.static is None:  # the block is a group, or the groups under one scale
                width = min(self.span, columns - int(order[start]) // self.span * self.span)
            places = slice(start, start + width)
            block, own = order[places], factor[places, places]
            ahead = self.errors[:, :start] @ factor[:start, places]
            weights = self.weights[:, block]
            if self.static is None:
                grid, groups = self._search(block, settled(weights, ahead, own))
            else:
                grid, groups = self.static, block // self.sizes.group
            self.codes[:, block], self.errors[:, places] = round_block(weights, weights + ahead, own, grid, groups)
            start += width

    def _search(self, block: NDArray[np.int64], weights: NDArray[np.float32]) -> tuple[Grid, NDArray[np.int64]]:
        """The grid of a block's groups for these weights, and the group in it of each column."""
        group, first = self.sizes.group, int(block[0]) // self.span * self.span
        groups = slice(first // group, min((first + self.span) // group, self.sizes.groups))
        current = np.zeros((len(weights), (groups.stop - groups.start) * group), np.float32)
        current[:, block - first] = weights
        by_group = current.reshape(len(weights), -1, group)
        metric = self.metric.part(groups)
        steps, shifts = search_rows(by_group, metric, self.scheme, self.codebook, compiled=self.compiled)
        self.steps[:, groups] = steps
        if self.shifts is not None and shifts is not None:
            self.shifts[:, groups] = shifts
        return wished_grid(steps, shifts, self.scheme, self.codebook), (block - first) // group

    def grid(self) -> Grid:
        """The grid of all groups."""
        return self.static or wished_grid(self.steps, self.shifts, self.scheme, self.codebook)


def feedback(inputs: InputStatistics, span: int) -> Feedback:
    """The order and the factor for these inputs; made once and kept as long as the statistics are."""
    with _LOCK:
        kept = _FEEDBACK.setdefault(inputs, {})
        if span not in kept:
            kept[span] = make_feedback(inputs, span)
        return kept[span]


_LOCK = threading.Lock()
_FEEDBACK: WeakKeyDictionary[InputStatistics, dict[int, Feedback]] = WeakKeyDictionary()


def make_feedback(inputs: InputStatistics, span: int) -> Feedback:
    """The order of rounding and the feedback of errors.

    Args:
        inputs: With their gram.
        span: Consecutive columns that are rounded one after the other; more than STATIC_GROUP for columns on their own.
    """
    assert inputs.gram is not None
    salience = inputs.gram.diagonal().astype(np.float64)
    columns = len(salience)
    if span > STATIC_GROUP:
        order = np.argsort(-salience, kind="stable")
    else:
        group = np.arange(columns) // span
        largest = np.maximum.reduceat(salience, np.arange(0, columns, span))
        order = np.lexsort((-salience, group, -largest[group]))
    backwards = order[::-1]
    damped = inputs.gram[np.ix_(backwards, backwards)].astype(np.float64)
    damped[np.diag_indices(columns)] += DAMPING * salience.mean()
    lower = np.linalg.cholesky(damped)
    del damped
    upper = lower[::-1, ::-1]
    factor = np.empty((columns, columns), np.float32)
    np.divide(upper, upper.diagonal(), out=factor, casting="same_kind")
    return Feedback(order, factor)


def settled(weights: NDArray[np.float32], ahead: NDArray[np.float32], own: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the weights of a block would become if nothing more were rounded: GPTQ's updated weights.

    Each would take on its whole correction, and the error that this is moves the ones behind it.
    """
    change = np.linalg.solve(np.triu(own).T.astype(np.float64), ahead.T.astype(np.float64))
    return weights + change.T.astype(np.float32)


def round_block(
    weights: NDArray[np.float32],
    target: NDArray[np.float32],
    own: NDArray[np.float32],
    grid: Rounds,
    groups: NDArray[np.int64],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes and errors of a block of columns.

    Args:
        weights: (rows, k).
        target: (rows, k), weights and what earlier blocks add to them.
        own: (k, k), the feedback within the block.
        grid: Of these rows.
        groups: (k,), the group of each column in the grid.
    """
    # Columns as rows of memory: each step reads and writes runs of bytes.
    goal, exact = np.ascontiguousarray(target.T), np.ascontiguousarray(weights.T)
    codes = np.empty(goal.shape, np.uint8)
    errors = np.empty_like(goal)
    for start in range(0, len(goal), STRIP):
        strip = slice(start, min(start + STRIP, len(goal)))
        goal[strip] += own[:start, strip].T @ errors[:start]
        for k in range(strip.start, strip.stop):
            group = int(groups[k])
            code = grid.nearest(goal[k][:, None], group)
            errors[k] = exact[k] - grid.values(code, group)[:, 0]
            codes[k] = code[:, 0]
            # No matrix product for so little: BLAS would wake its threads for each column.
            goal[k + 1 : strip.stop] += own[k, k + 1 : strip.stop, None] * errors[k]
    return codes.T, errors.T
