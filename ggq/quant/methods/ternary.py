"""Ternary: steps of the mean magnitude of a group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.grid import fit_grid
from ggq.quant.matrix import QuantizedMatrix
from ggq.quant.reference import by_groups, mean_magnitudes


class Ternary:
    """Codes -1, 0 and 1 of a step that is the mean of |weight| over the group; weights beyond half a step are not 0.

    Source: BitNet b1.58 (Ma et al. 2024, arXiv 2402.17764), section 2: absmean, there with one scale for a matrix.
    """

    name = "ternary"

    def supports(self, scheme: Scheme) -> bool:
        """Whether this method can fill the scheme: ternary codes."""
        return scheme.kind == "ternary" and not scheme.transform

    def quantize(self, weights: NDArray[np.float32], scheme: Scheme) -> QuantizedMatrix:
        """Choose scales and codes.

        Args:
            weights: float32 (rows, columns), finite.
            scheme: One that `supports` accepts.
        """
        grid = fit_grid(mean_magnitudes(weights, scheme), scheme)
        codes = grid.nearest(by_groups(weights, scheme).reshape(len(weights), -1))
        return grid.matrix(codes, (weights.shape[0], weights.shape[1]))
