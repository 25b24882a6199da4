"""AWQ: columns of inputs that are large are made larger in the weights, so that rounding takes less from them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.quant.methods.transforms.transform import SharedInputs, best_trial, product_errors

EXPONENTS = np.arange(1, 21) / 20
"""Exponents that are tried; 0 leaves things as they are."""

LARGEST_RATIO = 1e4
"""Of the largest scale to the smallest: columns of almost no input need not become huge."""


class Awq:
    """Scales s = m**a / sqrt(max * min), where m is the root of a column's mean square, for the exponent a that changes
    the products of all matrices with these inputs least when their weights are rounded.

    The second half of AWQ, the search of the clipping range, is the method `clip`, which follows unless another does.

    Source: AWQ (Lin et al. 2023, arXiv 2306.00978), sections 3.2 and 4.1, and its program, which takes the mean of |x|
    and tries 20 exponents.
    """

    name = "awq"
    kind = "scale"
    uses = frozenset({"gram"})
    requires = True

    def find(self, shared: SharedInputs) -> NDArray[np.float32] | None:
        """The scale; None where no exponent is better than 0."""
        assert shared.inputs is not None
        size = np.sqrt(shared.alike(shared.inputs.mean_square))
        trials = (normalized(size**exponent) for exponent in EXPONENTS)
        return best_trial(trials, lambda scale: product_errors(shared, scale))


def normalized(scale: NDArray[np.float64]) -> NDArray[np.float32]:
    """A scale around 1, as sqrt(max * min) makes it, its extremes cut off; 1 where it is 0, that of idle columns."""
    used = scale[scale > 0]
    scale = scale / np.sqrt(used.max() * max(used.min(), used.max() / LARGEST_RATIO))
    limit = np.sqrt(LARGEST_RATIO)
    return np.where(scale > 0, np.clip(scale, 1 / limit, limit), 1).astype(np.float32)
