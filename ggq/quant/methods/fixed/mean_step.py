"""What ternary and binary share: steps of the mean magnitude of a group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.grid import fit_grid
from ggq.quant.matrix import QuantizedMatrix
from ggq.quant.reference import by_groups, mean_magnitudes


class MeanStep:
    """Codes of a step that is the mean of |weight| over the group, each to nearest.

    `name` is the method's and the kind of scheme's that it fills.
    """

    name: str

    def supports(self, scheme: Scheme) -> bool:
        """Whether this method can fill the scheme: codes of its kind."""
        return scheme.kind == self.name and not scheme.transform

    def quantize(self, weights: NDArray[np.float32], scheme: Scheme) -> QuantizedMatrix:
        """Choose scales and codes.

        Args:
            weights: float32 (rows, columns), finite.
            scheme: One that `supports` accepts.
        """
        grid = fit_grid(mean_magnitudes(weights, scheme), scheme)
        return grid.nearest_matrix(by_groups(weights, scheme), weights.shape[1])
