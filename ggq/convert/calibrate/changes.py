"""Reading a tensor's rows as folded transforms change them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ggq.models.names import Expression, Source
from ggq.quant.change import Change


def read_changed(source: Source, expression: Expression, change: Change, rows: Iterable[int]) -> NDArray[np.float32]:
    """New rows of a tensor by their numbers.

    Args:
        source: Where the old ones lie.
        expression: The tensor; every dimension but the last counts as rows.
        change: What makes new rows from old.
        rows: Numbers of new rows, at least one.
    """
    numbers = np.fromiter(rows, np.int64)
    old = numbers if change.row_order is None else change.row_order[numbers]
    parts = [
        expression.rows(source, int(run[0]), int(run[-1]) + 1)
        for run in np.split(old, np.flatnonzero(np.diff(old) != 1) + 1)
    ]
    return change.apply(parts[0] if len(parts) == 1 else np.concatenate(parts), numbers)
