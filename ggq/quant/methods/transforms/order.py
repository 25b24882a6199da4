"""Order: columns that are alike come into the same group, so that steps fit them better."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.quant.methods.transforms.transform import SharedInputs, best_trial, product_errors


class Order:
    """Columns sorted by the range of their weights, by the size of their inputs or by both together before groups are
    formed; of these orders and the one that is there, the one that changes the products least.

    Source: sorting by range is the permutation of RPTQ (Yuan et al. 2023, arXiv 2304.01089) and of Atom (Zhao et al.
    2023, arXiv 2310.19102), applied to weights; sorting by size of inputs is GPTQ's "static groups with act-order".
    """

    name = "order"
    kind = "order"
    uses = frozenset({"vectors"})
    requires = False

    def find(self, shared: SharedInputs) -> NDArray[np.int64] | None:
        """The order; None where none is better."""
        spread = shared.alike(
            np.mean([np.square(consumer.weights).mean(axis=0) for consumer in shared.consumers], axis=0)
        )
        keys = [spread, shared.magnitudes()]
        if shared.inputs is not None:
            energy = shared.alike(shared.inputs.mean_square)
            keys += [energy, energy * spread]
        return best_trial(
            (sorted_columns(key, shared) for key in keys), lambda order: product_errors(shared, order=order)
        )


def sorted_columns(key: NDArray[np.float64], shared: SharedInputs) -> NDArray[np.int64]:
    """Columns with the largest key first, as far as rows may change places and inputs of a row stay together.

    Args:
        key: (columns,), the same for inputs of the same row.
        shared: Says which row makes each input.
    """
    rows = int(shared.source.max()) + 1
    by_row = np.zeros(rows)
    by_row[shared.source] = key
    places = row_order(by_row, shared.block)
    return columns_of(places, shared.source, shared.block)


def row_order(key: NDArray[np.float64], block: int) -> NDArray[np.int64]:
    """The row at each place: the largest key first within each run of `block` rows."""
    run = np.arange(len(key)) // max(block, 1)
    return np.lexsort((-key, run)).astype(np.int64)


def columns_of(places: NDArray[np.int64], source: NDArray[np.int64], block: int) -> NDArray[np.int64]:
    """The column at each place when rows have changed places: runs of columns follow the runs of rows behind them."""
    columns = np.arange(len(source))
    within = source % max(block, 1)
    starts = columns - within  # a run of columns comes from a run of rows, in the same order
    return starts + places[source] % max(block, 1)
