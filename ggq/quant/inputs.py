"""InputStatistics: what calibration knows of the vectors that a matrix is multiplied with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class InputStatistics:
    """Statistics of the inputs of one matrix over all calibration tokens, column by column.

    A column that was 0 for every token (idle) has no part in any product: methods leave it out, and use the others.

    Args:
        count: Tokens, at least 1.
        absolute_maximum: float32 (columns,).
        mean: float32 (columns,).
        mean_square: float32 (columns,); 0 only for a column that was 0 for every token.
        gram: float32 (columns, columns), X.T @ X / count, or None where no method asks for it.
        samples: float32 (some tokens, columns), the inputs themselves at equal distances, or None likewise.
    """

    count: int
    absolute_maximum: NDArray[np.float32]
    mean: NDArray[np.float32]
    mean_square: NDArray[np.float32]
    gram: NDArray[np.float32] | None = None
    samples: NDArray[np.float32] | None = None

    @property
    def columns(self) -> int:
        """Columns of the matrix."""
        return len(self.mean_square)

    @cached_property
    def trouble(self) -> str:
        """Why no method can rely on these numbers; "" where every one can. Some idle columns are no trouble."""
        unusual = ~(np.isfinite(self.mean_square) & np.isfinite(self.mean) & np.isfinite(self.absolute_maximum))
        if unusual.any():
            return f"{int(unusual.sum())} of {self.columns} input columns were NaN or infinite"
        if not self.mean_square.any():
            return f"none of {self.columns} input columns saw an activation"
        if self.gram is not None and not np.isfinite(self.gram).all():
            return "products of input columns were infinite"
        return ""

    def scaled(self, scale: NDArray[np.float32]) -> InputStatistics:
        """The statistics of inputs whose column j is multiplied by scale[j]."""
        gram = None if self.gram is None else self.gram * scale[:, None] * scale
        return replace(
            self,
            absolute_maximum=self.absolute_maximum * np.abs(scale),
            mean=self.mean * scale,
            mean_square=self.mean_square * scale * scale,
            gram=gram,
            samples=None if self.samples is None else self.samples * scale,
        )

    def ordered(self, order: NDArray[np.uint32]) -> InputStatistics:
        """The statistics of inputs whose column j is this one's column order[j]."""
        return replace(
            self,
            absolute_maximum=self.absolute_maximum[order],
            mean=self.mean[order],
            mean_square=self.mean_square[order],
            gram=None if self.gram is None else self.gram[np.ix_(order, order)],
            samples=None if self.samples is None else self.samples[:, order],
        )
