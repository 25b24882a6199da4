"""Binary: the signs of the weights, times the mean magnitude of a group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.grid import fit_grid
from ggq.quant.matrix import QuantizedMatrix
from ggq.quant.reference import by_groups, mean_magnitudes


class Binary:
    """Codes -1 and 1 (1 for a weight of 0) of a step that is the mean of |weight| over the group: no step and no signs
    have a smaller squared error, but for the step's rounding.

    Source: XNOR-Net (Rastegari et al. 2016, arXiv 1603.05279), section 3.1.
    """

    name = "binary"

    def supports(self, scheme: Scheme) -> bool:
        """Whether this method can fill the scheme: binary codes."""
        return scheme.kind == "binary" and not scheme.transform

    def quantize(self, weights: NDArray[np.float32], scheme: Scheme) -> QuantizedMatrix:
        """Choose scales and codes.

        Args:
            weights: float32 (rows, columns), finite.
            scheme: One that `supports` accepts.
        """
        grid = fit_grid(mean_magnitudes(weights, scheme), scheme)
        codes = grid.nearest(by_groups(weights, scheme).reshape(len(weights), -1))
        return grid.matrix(codes, (weights.shape[0], weights.shape[1]))
