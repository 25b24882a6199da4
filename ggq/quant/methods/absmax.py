"""AbsMax: the weight of largest magnitude in a group becomes its lowest code, zero the middle one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.grid import extremes, fit_grid
from ggq.quant.matrix import QuantizedMatrix, middle
from ggq.quant.reference import by_groups


class AbsMax:
    """Symmetric rounding to nearest, the scale taken from the extreme weight (as GGUF's Q4_0 takes it).

    With half = 2**(bits - 1) and m the extreme weight, the scale s is m / -half rounded to f16, so it may be negative.
    Where s is not subnormal, |s| is within a part in 2**11 of |m| / half, and for each weight w, decoded as d:

        |w - d| <= |s| / 2 * (1 + 2**-14)                       on m's own side of zero, and where w / s <= half - 1/2
        |w - d| <= |s| * (1 + half * 2**-11) * (1 + 2**-14)     otherwise (there is no code +half)

    The factor covers the two float32 roundings of w * (1 / s), each at most 2**-24 of a number up to half + 1. A
    subnormal s is off by up to 2**-25 and may be 0; then and always |w - d| <= |m|, and zero decodes to exactly 0.
    With two-level scales s is rounded to a sub-scale besides, and where that makes it smaller, weights beyond the last
    code are off by the difference.

    Source: spec/schemes.md, S7.
    """

    name = "absmax"

    def supports(self, scheme: Scheme) -> bool:
        """Whether this method can fill the scheme: uniform codes without zero-points and minimums."""
        return scheme.kind == "uniform" and scheme.zero == "none" and not scheme.transform

    def quantize(self, weights: NDArray[np.float32], scheme: Scheme) -> QuantizedMatrix:
        """Choose scales and codes.

        Args:
            weights: float32 (rows, columns), finite.
            scheme: One that `supports` accepts.

        Returns:
            A matrix whose scales are infinite where they are too large for f16; `pack` refuses those.
        """
        groups = by_groups(weights, scheme)
        grid = fit_grid(extremes(groups) * np.float32(-1 / middle(scheme)), scheme)
        return grid.nearest_matrix(groups, weights.shape[1])
