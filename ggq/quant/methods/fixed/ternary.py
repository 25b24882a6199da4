"""Ternary: steps of the mean magnitude of a group."""

from __future__ import annotations

from ggq.quant.methods.fixed.mean_step import MeanStep


class Ternary(MeanStep):
    """Codes -1, 0 and 1 of a step that is the mean of |weight| over the group; weights beyond half a step are not 0.

    Source: BitNet b1.58 (Ma et al. 2024, arXiv 2402.17764), section 2: absmean, there with one scale for a matrix.
    """

    name = "ternary"
