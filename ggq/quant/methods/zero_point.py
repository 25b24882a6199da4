"""Zero-point: the codes of a group span its range, and one whole code stands for exactly zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.grid import fit_grid
from ggq.quant.matrix import QuantizedMatrix, largest_code
from ggq.quant.reference import by_groups


class ZeroPoint:
    """Asymmetric rounding to nearest over the range of the group, widened to hold zero.

    With levels = 2**bits - 1, the scale s is (high - low) / levels rounded to f16 and the zero-point low / -s rounded.
    Where s is not subnormal, for each weight w, decoded as d:

        |w - d| <= s * (1/2 + levels * 2**-11) * (1 + 2**-14)

    The second term is the top of the range, cut off where s was rounded down; elsewhere s / 2 stands alone. The last
    factor covers the float32 roundings of the range, the scale and w * (1 / s). A subnormal s is off by up to 2**-25
    and may be 0; then and always |w - d| <= high - low, and zero decodes to exactly 0.

    Source: spec/schemes.md, S8.
    """

    name = "zero-point"

    def supports(self, scheme: Scheme) -> bool:
        """Whether this method can fill the scheme: uniform codes with zero-points."""
        return scheme.kind == "uniform" and scheme.zero == "code" and not scheme.transform

    def quantize(self, weights: NDArray[np.float32], scheme: Scheme) -> QuantizedMatrix:
        """Choose scales, zero-points and codes.

        Args:
            weights: float32 (rows, columns), finite.
            scheme: One that `supports` accepts.

        Returns:
            A matrix whose scales are infinite where they are too large for f16; `pack` refuses those.
        """
        groups = by_groups(weights, scheme)
        levels = np.float32(largest_code(scheme))
        high, low = groups.max(axis=2, initial=0), groups.min(axis=2, initial=0)
        with np.errstate(over="ignore"):
            grid = fit_grid((high - low) / levels, scheme, minimum=-low)
        return grid.nearest_matrix(groups, weights.shape[1])
