"""Clip: AWQ's second half, the range of each group that changes the group's part of the product least."""

from __future__ import annotations

from dataclasses import dataclass

from ggq.format.scheme import Scheme
from ggq.quant.matrix import geometry
from ggq.quant.methods.mse import Mse
from ggq.quant.search.steps import Metric, block_metric


@dataclass(frozen=True, eq=False)
class Clip(Mse):
    """The search of `Mse`, with errors counted by what they do to the product of the group with its inputs: products of
    columns included, where MSE takes columns to be uncorrelated. Groups of more than LARGEST_BLOCK columns fall back to
    that.

    Source: AWQ (Lin et al. 2023, arXiv 2306.00978), its program's search of the clipping range.
    """

    name = "clip"
    uses = frozenset({"gram"})
    requires = True

    def metric(self, scheme: Scheme, shape: tuple[int, ...]) -> Metric:
        """How errors count: by group, with the products of its columns."""
        assert self.inputs is not None and self.inputs.gram is not None
        return block_metric(self.inputs.gram, geometry(scheme, shape))
