"""Ternary with steps of the largest magnitude of a group, which keeps weights that are ternary already."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.grid import fit_grid
from ggq.quant.matrix import QuantizedMatrix
from ggq.quant.reference import by_groups, largest


class TernaryMax:
    """Codes -1, 0 and 1 of a step that is the largest |weight| of the group; others become the nearest of the three."""

    name = "ternary-max"

    def supports(self, scheme: Scheme) -> bool:
        """Whether this method can fill the scheme: ternary codes."""
        return scheme.kind == "ternary" and not scheme.transform

    def quantize(self, weights: NDArray[np.float32], scheme: Scheme) -> QuantizedMatrix:
        """Choose scales and codes.

        Args:
            weights: float32 (rows, columns), finite.
            scheme: One that `supports` accepts.
        """
        groups = by_groups(weights, scheme)
        grid = fit_grid(largest(groups), scheme)
        return grid.nearest_matrix(groups, weights.shape[1])
