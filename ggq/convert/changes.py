"""Changes: what transforms do to a tensor's rows and columns before it is quantized, and reading it so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggq.convert.checkpoint import FLOATS, Checkpoint
from ggq.convert.safetensors_header import SourceTensor
from ggq.quant import to_float32

Floats = NDArray[np.float32]
Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Change:
    """New[i, j] = old[row_order[i], column_order[j]] * row_scale[i] * column_scale[j]; None leaves things as they are.

    A tensor of one dimension is a row: a norm has its columns changed, a bias those that are its matrix's rows.
    """

    row_order: Places | None = None
    row_scale: Floats | None = None
    column_order: Places | None = None
    column_scale: Floats | None = None

    @property
    def nothing(self) -> bool:
        """Whether everything is left as it is."""
        return all(each is None for each in vars(self).values())

    @property
    def sides(self) -> str:
        """What is changed, in words: "rows", "columns" or "rows and columns"."""
        rows = self.row_order is not None or self.row_scale is not None
        columns = self.column_order is not None or self.column_scale is not None
        return " and ".join(name for name, changed in (("rows", rows), ("columns", columns)) if changed)

    def with_rows(self, scale: Floats | None = None, order: Places | None = None) -> Change:
        """This change, then one of the rows: in an order, or scaled."""
        old_scale, old_order = _then(self.row_scale, self.row_order, scale, order)
        return Change(old_order, old_scale, self.column_order, self.column_scale)

    def with_columns(self, scale: Floats | None = None, order: Places | None = None) -> Change:
        """This change, then one of the columns."""
        old_scale, old_order = _then(self.column_scale, self.column_order, scale, order)
        return Change(self.row_order, self.row_scale, old_order, old_scale)

    def read(self, checkpoint: Checkpoint, source: SourceTensor, rows: Iterable[int]) -> Floats:
        """New rows of a tensor by their numbers, every dimension but the last counted as rows: float32."""
        numbers = np.fromiter(rows, np.int64)
        old = numbers if self.row_order is None else self.row_order[numbers]
        parts = [
            to_float32(checkpoint.read_rows(source, int(run[0]), int(run[-1]) + 1), FLOATS[source.dtype])
            for run in np.split(old, np.flatnonzero(np.diff(old) != 1) + 1)
        ]
        weights = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if self.column_order is not None:
            weights = weights[:, self.column_order]
        if self.row_scale is not None:
            weights = weights * self.row_scale[numbers, None]
        return weights if self.column_scale is None else weights * self.column_scale


def _then(
    scale: Floats | None, order: Places | None, more: Floats | None, new_order: Places | None
) -> tuple[Floats | None, Places | None]:
    if new_order is not None:
        scale = None if scale is None else scale[new_order]
        order = new_order if order is None else order[new_order]
    if more is not None:
        scale = more if scale is None else scale * more
    return scale, order
