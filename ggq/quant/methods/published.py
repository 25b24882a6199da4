"""Codebooks that are published: NF4, sixteen levels at quantiles of the normal distribution, and MXFP4's floats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import TABLE_LIMITS, Scheme
from ggq.quant.grid import fit_grid
from ggq.quant.matrix import QuantizedMatrix
from ggq.quant.reference import by_groups, largest

NF4_LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The levels as published (bitsandbytes, functional.py)."""

NF4_TABLE = np.rint(np.array(NF4_LEVELS) * TABLE_LIMITS[1]).astype(np.int8)
"""The levels in 63rds: each is off by less than a hundredth, where they lie at least 0.08 apart."""


class NF4:
    """A fixed codebook; the weight of largest magnitude in a group becomes 1 or -1.

    Source: QLoRA (Dettmers et al. 2023, arXiv 2305.14314), section 3 and appendix E.
    """

    name = "nf4"

    def supports(self, scheme: Scheme) -> bool:
        """Whether this method can fill the scheme: a codebook of 16 levels."""
        return scheme.kind == "codebook" and scheme.bits == 4 and not scheme.transform

    def quantize(self, weights: NDArray[np.float32], scheme: Scheme) -> QuantizedMatrix:
        """Choose scales and codes.

        Args:
            weights: float32 (rows, columns), finite.
            scheme: One that `supports` accepts.
        """
        groups = by_groups(weights, scheme)
        grid = fit_grid(largest(groups) / np.float32(TABLE_LIMITS[1]), scheme, codebook=NF4_TABLE)
        return grid.nearest_matrix(groups, weights.shape[1])


FP4_TABLE = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
"""Twice the numbers of E2M1, in the order of their codes."""


class MXFP4:
    """The numbers of E2M1 under the power of two that leaves the largest weight of a group between 4 and 8, of which 6
    is the largest that there is. Weights that are MXFP4 already are kept exactly.

    Source: OCP Microscaling Formats (MX) specification 1.0, sections 5.2 and 6.3.
    """

    name = "mxfp4"

    def supports(self, scheme: Scheme) -> bool:
        """Whether this method can fill the scheme: a codebook of 16 levels, scales of one level."""
        return scheme.kind == "codebook" and scheme.bits == 4 and not scheme.transform and not scheme.subscale

    def quantize(self, weights: NDArray[np.float32], scheme: Scheme) -> QuantizedMatrix:
        """Choose scales and codes.

        Args:
            weights: float32 (rows, columns), finite.
            scheme: One that `supports` accepts.
        """
        groups = by_groups(weights, scheme)
        most = largest(groups)
        _, exponent = np.frexp(most)  # it is within 2**(exponent - 1) and 2**exponent
        step = np.where(most > 0, np.ldexp(np.float32(1), exponent - 4), np.float32(0)).astype(np.float32)
        return fit_grid(step, scheme, codebook=FP4_TABLE).nearest_matrix(groups, weights.shape[1])
