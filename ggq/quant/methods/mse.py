"""MSE: steps searched so that the squared error is least, which clips what is rare for the sake of what is common."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.grid import Grid
from ggq.quant.inputs import InputStatistics
from ggq.quant.matrix import QuantizedMatrix, geometry
from ggq.quant.methods.kmeans import learnt_codebook
from ggq.quant.methods.search import Metric, best_grid, diagonal_metric
from ggq.quant.reference import by_groups


@dataclass(frozen=True, eq=False)
class Mse:
    """Rounding to nearest on the grid of least squared error; with calibration, errors count by their column's mean
    square, which is the expected squared error of the product where columns are uncorrelated.

    Args:
        inputs: Statistics of the columns, without trouble, or None.
        codebook: int8 (2**bits,), for schemes with one; None to fit one to the rows that are quantized.
        compiled: Whether compiled code searches where it can; it finds the same.

    Source: the search over clipped ranges is that of OMSE (Choukroun et al. 2019, arXiv 1902.06822); the fit of scale
    and minimum by turns follows the idea of llama.cpp's make_qx_quants and make_qkx2_quants.
    """

    name = "mse"
    uses = frozenset({"vectors"})
    requires = False
    block_weights = 1 << 20

    inputs: InputStatistics | None = None
    codebook: NDArray[np.int8] | None = None
    compiled: bool = False

    def supports(self, scheme: Scheme) -> bool:
        """Whether this method can fill the scheme: all codes."""
        return scheme.kind != "float" and not scheme.transform

    def prepare(self, sample: NDArray[np.float32], scheme: Scheme, inputs: InputStatistics | None = None) -> Mse:
        """The method with what all rows share; see `Learner.prepare`."""
        return replace(
            self, inputs=inputs, codebook=learnt_codebook(self.codebook, sample, scheme, inputs, compiled=self.compiled)
        )

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
        codebook = learnt_codebook(self.codebook, weights, scheme, self.inputs, compiled=self.compiled)
        return best_grid(weights, scheme, self.metric(scheme, weights.shape), codebook, compiled=self.compiled)

    def metric(self, scheme: Scheme, shape: tuple[int, ...]) -> Metric:
        """How errors count: by column."""
        return diagonal_metric(None if self.inputs is None else self.inputs.mean_square, geometry(scheme, shape))
