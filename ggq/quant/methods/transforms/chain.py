"""Chains: methods one after the other, written `order+awq+gptq`: transforms of the inputs, then what rounds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.inputs import InputStatistics
from ggq.quant.matrix import QuantizedMatrix
from ggq.quant.methods.protocol import Calibrated, Method, prepared
from ggq.quant.methods.transforms.transform import Consumer, SharedInputs, Stored, Transform

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Chain:
    """Transforms, and the method that rounds what they make of the weights.

    The converter finds the transforms of a layer itself, because matrices share inputs and because it folds what can be
    folded. On its own a chain finds them for one matrix, and keeps them in it.

    Args:
        name: As written.
        transforms: In the order in which they are applied.
        rounding: The method behind them.
        plain: What stands for it in their searches, by what it does without statistics.
    """

    name: str
    transforms: tuple[Transform, ...]
    rounding: Method
    plain: Method

    @property
    def uses(self) -> frozenset[str]:
        """What statistics any of them has a use for."""
        found = self.rounding.uses if isinstance(self.rounding, Calibrated) else frozenset()
        return found.union(*(transform.uses for transform in self.transforms))

    @property
    def requires(self) -> bool:
        """Whether one of them can do nothing without."""
        rounding = isinstance(self.rounding, Calibrated) and self.rounding.requires
        return rounding or any(transform.requires for transform in self.transforms)

    @property
    def block_weights(self) -> int:
        """Weights of the rows that the rounding method likes to get at once."""
        return self.rounding.block_weights if isinstance(self.rounding, Calibrated) else 0

    def supports(self, scheme: Scheme) -> bool:
        """Whether the chain can fill the scheme: its transforms find what the scheme keeps."""
        kinds = {transform.kind for transform in self.transforms}
        return scheme.transform <= kinds and self.rounding.supports(replace(scheme, transform=frozenset()))

    def prepare(self, sample: Floats, scheme: Scheme, inputs: InputStatistics | None = None) -> Method:
        """What quantizes one matrix that keeps its transforms; see `Learner.prepare`."""
        plain = replace(scheme, transform=frozenset())
        if not scheme.transform:
            return prepared(self.rounding, sample, plain, inputs)
        columns = np.arange(sample.shape[1])
        scale: Floats | None = None
        order: NDArray[np.int64] | None = None
        for transform in self.transforms:
            if transform.kind not in scheme.transform or (transform.requires and inputs is None):
                continue
            stored = Stored(self.plain, scale, order)
            consumer = Consumer(stored.transformed(sample), plain, self.plain)
            changed = None if inputs is None else transformed_inputs(inputs, scale, order)
            found = transform.find(SharedInputs((consumer,), changed, columns, len(columns)))
            scale, order = composed(scale, order, transform.kind, found)
        return keeping(self.rounding, sample, scheme, inputs, scale, order)

    def quantize(self, weights: Floats, scheme: Scheme) -> QuantizedMatrix:
        """Choose scales and codes, without statistics."""
        return self.prepare(weights, scheme).quantize(weights, scheme)


@dataclass(frozen=True, eq=False)
class Keeping(Stored):
    """A `Stored` that is a method."""

    name: str = ""

    def supports(self, scheme: Scheme) -> bool:
        """Whether the scheme keeps what this has."""
        return True


def keeping(
    rounding: Method,
    sample: Floats,
    scheme: Scheme,
    inputs: InputStatistics | None,
    scale: Floats | None,
    order: NDArray[np.int64] | None,
) -> Method:
    """The method for a matrix that keeps this transform.

    Args:
        rounding: What rounds the transformed weights.
        sample: float32 (rows, columns), rows at equal distances as they are.
        scheme: With the transform.
        inputs: Statistics of the inputs as they are, or None.
        scale, order: As in `Stored`.
    """
    plain = replace(scheme, transform=frozenset())
    bare = Stored(rounding, scale, order)
    changed = None if inputs is None else transformed_inputs(inputs, scale, order)
    return Keeping(prepared(rounding, bare.transformed(sample), plain, changed), scale, order, rounding.name)


def transformed_inputs(
    inputs: InputStatistics, scale: Floats | None, order: NDArray[np.int64] | None
) -> InputStatistics:
    """Statistics of inputs in an order, and then divided by a scale."""
    inputs = inputs if order is None else inputs.ordered(order.astype(np.uint32))
    return inputs if scale is None else inputs.scaled((1 / scale).astype(np.float32))


def composed(
    scale: Floats | None, order: NDArray[np.int64] | None, kind: str, found: NDArray | None
) -> tuple[Floats | None, NDArray[np.int64] | None]:
    """A scale and an order with another one after them: an order also orders the scale that was there."""
    if found is None:
        return scale, order
    if kind == "scale":
        return (found if scale is None else scale * found), order
    return (None if scale is None else scale[found]), (found if order is None else order[found])
