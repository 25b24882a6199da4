"""MSE: steps searched so that the squared error is least, which clips what is rare for the sake of what is common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.grid import Grid
from ggq.quant.matrix import QuantizedMatrix, geometry
from ggq.quant.methods.fitted import Fitted
from ggq.quant.reference import by_groups
from ggq.quant.search.steps import Metric, best_grid, diagonal_metric


@dataclass(frozen=True, eq=False)
class Mse(Fitted):
    """Rounding to nearest on the grid of least squared error; with calibration, errors count by their column's mean
    square, which is the expected squared error of the product where columns are uncorrelated.

    Source: the search over clipped ranges is that of OMSE (Choukroun et al. 2019, arXiv 1902.06822); the fit of scale
    and minimum by turns follows the idea of llama.cpp's make_qx_quants and make_qkx2_quants.
    """

    name = "mse"
    uses = frozenset({"vectors"})
    requires = False
    block_weights = 1 << 20

    def quantize(self, weights: NDArray[np.float32], scheme: Scheme) -> QuantizedMatrix:
        """Choose a grid and codes.

        Args:
            weights: float32 (rows, columns), finite.
            scheme: One that `supports` accepts.
        """
        grid = self.grid(weights, scheme)
        return grid.nearest_matrix(by_groups(weights, scheme), weights.shape[1])

    def grid(self, weights: NDArray[np.float32], scheme: Scheme) -> Grid:
        """The grid on which each weight gets the nearest code; arguments as for `quantize`."""
        metric, codebook = self.metric(scheme, weights.shape), self.table(weights, scheme)
        return best_grid(weights, scheme, metric, codebook, compiled=self.compiled)

    def metric(self, scheme: Scheme, shape: tuple[int, ...]) -> Metric:
        """How errors count: by column."""
        return diagonal_metric(None if self.inputs is None else self.inputs.mean_square, geometry(scheme, shape))
