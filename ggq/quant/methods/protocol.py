"""What methods promise, and what is asked of one without knowing which it is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.inputs import InputStatistics
from ggq.quant.matrix import QuantizedMatrix

SAMPLE_WEIGHTS = 1 << 20
"""Weights, about, from which a method learns what all rows of a tensor share."""


class Method(Protocol):
    """A way to choose codes and scales. Rows are quantized independently of each other, so they may come in blocks."""

    @property
    def name(self) -> str:
        """As users write it."""
        ...

    def supports(self, scheme: Scheme) -> bool:
        """Whether the method can fill this scheme."""
        ...

    def quantize(self, weights: NDArray[np.float32], scheme: Scheme) -> QuantizedMatrix:
        """Quantize float32 (rows, columns), finite, to a scheme that `supports` accepts."""
        ...


@runtime_checkable
class Learner(Protocol):
    """A method for which the rows of a tensor share something, such as a codebook or what is known of their inputs: it
    is learnt before the first."""

    def prepare(self, sample: NDArray[np.float32], scheme: Scheme, inputs: InputStatistics | None = None) -> Method:
        """The method that quantizes this tensor's rows, independently of each other.

        Args:
            sample: float32 (rows, columns): rows at equal distances (`sample_rows`), or all of them.
            scheme: One that `supports` accepts.
            inputs: What is known of the tensor's inputs, or None.
        """
        ...


@runtime_checkable
class Calibrated(Learner, Protocol):
    """A method that has a use for statistics of a matrix's inputs."""

    @property
    def uses(self) -> frozenset[str]:
        """Of "vectors" (numbers by column), "gram" (products of columns) and "samples" (inputs themselves)."""
        ...

    @property
    def requires(self) -> bool:
        """Whether it can do nothing without them."""
        ...

    @property
    def block_weights(self) -> int:
        """Weights of the rows that it likes to get at once, about; 0 where it does not care."""
        ...


def prepared(
    method: Method, sample: NDArray[np.float32], scheme: Scheme, inputs: InputStatistics | None = None
) -> Method:
    """What quantizes the rows of one tensor: what a method learnt from a sample of them, or the method itself.

    Weights of the sample that are not finite count as 0; whoever quantizes their row refuses them.
    """
    if not isinstance(method, Learner):
        return method
    return method.prepare(np.where(np.isfinite(sample), sample, np.float32(0)), scheme, inputs)


def block_weights(method: Method) -> int:
    """Weights of the rows that a method likes to get at once, about; 0 where it does not care."""
    return method.block_weights if isinstance(method, Calibrated) else 0


def uses(method: Method) -> frozenset[str]:
    """What statistics of inputs a method has a use for; see `Calibrated.uses`."""
    return method.uses if isinstance(method, Calibrated) else frozenset()


def sample_rows(rows: int, columns: int) -> NDArray[np.int64]:
    """Numbers of the rows of a tensor that a method learns from: at equal distances, about SAMPLE_WEIGHTS weights."""
    count = min(rows, max(1, SAMPLE_WEIGHTS // columns))
    return np.arange(count, dtype=np.int64) * rows // count
