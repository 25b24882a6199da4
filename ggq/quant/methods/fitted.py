"""What the methods share that fit steps to the weights, and to their inputs where these are known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.inputs import InputStatistics
from ggq.quant.methods.kmeans import learnt_codebook

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class Fitted:
    """A method for all schemes of codes that is told of the inputs and fits a codebook where the scheme has one.

    Args:
        inputs: Statistics of the columns, without trouble, or None.
        codebook: int8 (2**bits,), for schemes with one; None to fit one to the rows that are quantized.
        compiled: Whether compiled code searches where it can; it finds the same.
    """

    inputs: InputStatistics | None = None
    codebook: NDArray[np.int8] | None = None
    compiled: bool = False

    def supports(self, scheme: Scheme) -> bool:
        """Whether this method can fill the scheme: all codes."""
        return scheme.kind != "float" and not scheme.transform

    def prepare(self, sample: NDArray[np.float32], scheme: Scheme, inputs: InputStatistics | None = None) -> Self:
        """The method with what all rows share; see `Learner.prepare`."""
        codebook = learnt_codebook(self.codebook, sample, scheme, inputs, compiled=self.compiled)
        return replace(self, inputs=inputs, codebook=codebook)

    def table(self, weights: NDArray[np.float32], scheme: Scheme) -> NDArray[np.int8] | None:
        """The codebook for some rows: what was learnt, or one fitted to them; None where the scheme has none."""
        return learnt_codebook(self.codebook, weights, scheme, self.inputs, compiled=self.compiled)
