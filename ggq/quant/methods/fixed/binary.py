"""Binary: the signs of the weights, times the mean magnitude of a group."""

from __future__ import annotations

from ggq.quant.methods.fixed.mean_step import MeanStep


class Binary(MeanStep):
    """Codes -1 and 1 (1 for a weight of 0) of a step that is the mean of |weight| over the group: no step and no signs
    have a smaller squared error, but for the step's rounding.

    Source: XNOR-Net (Rastegari et al. 2016, arXiv 1603.05279), section 3.1.
    """

    name = "binary"
