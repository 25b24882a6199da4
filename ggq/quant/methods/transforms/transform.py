"""Transforms: what may be done to the inputs of matrices, and undone in their columns, before anything is rounded.

A product does not change when input j is divided by s[j] and column j multiplied with it, nor when inputs and columns
are put in another order together. What produces the inputs can do its half (its rows are scaled or ordered: folding),
or the matrix keeps it (schemes with `+scale` or `+order`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.inputs import InputStatistics
from ggq.quant.matrix import QuantizedMatrix
from ggq.quant.methods.protocol import Method, prepared
from ggq.quant.reference import decode
from ggq.quant.transform import with_transform

Floats = NDArray[np.float32]
Trial = TypeVar("Trial", bound=NDArray)


@dataclass(frozen=True, eq=False)
class Consumer:
    """A matrix whose inputs are to be transformed.

    Args:
        weights: float32 (rows, columns), some rows at equal distances.
        scheme: Its scheme, without transforms.
        rounder: What stands for its method in a search.
    """

    weights: Floats
    scheme: Scheme
    rounder: Method


@dataclass(frozen=True, eq=False)
class SharedInputs:
    """Inputs that some matrices share, and how free a transform is.

    Args:
        consumers: Those matrices.
        inputs: Statistics of the inputs, without trouble, or None.
        source: int64 (columns,): the number of the row that makes each input; inputs of the same row (heads that share
            their values) must be treated alike. All different where the matrices keep the transform.
        block: Rows that may change places with each other, each such run of rows among themselves; 0 for none.
        activations: How inputs will be rounded: "group", "token" or "static".
    """

    consumers: Sequence[Consumer]
    inputs: InputStatistics | None
    source: NDArray[np.int64]
    block: int
    activations: str = "group"

    @property
    def columns(self) -> int:
        """How many inputs there are."""
        return len(self.source)

    @cached_property
    def sizes(self) -> list[float]:
        """The mean square of each consumer's products, summed over its rows."""
        return [max(square(consumer.weights, self.inputs), 1e-30) for consumer in self.consumers]

    def vectors(self, scale: Floats | None, order: NDArray[np.int64] | None) -> InputStatistics | None:
        """Numbers by column of the inputs in an order, and then divided by a scale."""
        if self.inputs is None:
            return None
        found = replace(self.inputs, gram=None, samples=None)
        found = found if order is None else found.ordered(order.astype(np.uint32))
        return found if scale is None else found.scaled((1 / scale).astype(np.float32))

    @cached_property
    def products(self) -> list[Floats]:
        """Each consumer's products with the samples, before anything is rounded."""
        assert self.inputs is not None and self.inputs.samples is not None
        return [self.inputs.samples @ consumer.weights.T for consumer in self.consumers]

    def alike(self, numbers: NDArray[np.floating], largest: bool = False) -> NDArray[np.float64]:
        """The mean (or the largest) of numbers (columns,) over the inputs of each row, for each input."""
        rows = int(self.source.max()) + 1
        if largest:
            found = np.full(rows, -np.inf)
            np.maximum.at(found, self.source, numbers.astype(np.float64))
        else:
            count = np.bincount(self.source, minlength=rows)
            found = np.bincount(self.source, numbers.astype(np.float64), rows) / np.maximum(count, 1)
        return found[self.source]

    def magnitudes(self) -> NDArray[np.float64]:
        """The largest |weight| of each column over all consumers, the same for inputs that must be treated alike."""
        found = np.max([np.abs(consumer.weights).max(axis=0) for consumer in self.consumers], axis=0)
        return self.alike(found, largest=True)


class Transform(Protocol):
    """A way to find a transform of shared inputs.

    name: Of the method.
    kind: "scale" or "order".
    uses, requires: As of `ggq.quant.methods.Calibrated`.
    """

    name: str
    kind: str
    uses: frozenset[str]
    requires: bool

    def find(self, shared: SharedInputs) -> NDArray | None:
        """A scale, float32 (columns,), that columns are multiplied with; or an order, int64 (columns,): the old number
        of the column at each place; None to leave things as they are."""
        ...


@dataclass(frozen=True, eq=False)
class Stored:
    """A method for matrices that keep their transform: weights are transformed before it, the transform put with them.

    Args:
        method: What quantizes the transformed weights.
        scale: float32 (columns,), what stored columns are multiplied with, or None.
        order: int64 (columns,), the column at each stored place, or None.
    """

    method: Method
    scale: Floats | None = None
    order: NDArray[np.int64] | None = None

    def transformed(self, weights: Floats) -> Floats:
        """Weights (rows, columns) as they are stored."""
        weights = weights if self.order is None else weights[:, self.order]
        return weights if self.scale is None else weights * self.scale

    def quantize(self, weights: Floats, scheme: Scheme) -> QuantizedMatrix:
        """Choose scales and codes, and add the transform."""
        matrix = self.method.quantize(self.transformed(weights), replace(scheme, transform=frozenset()))
        scale = order = None
        if "scale" in scheme.transform:
            scale = np.ones(weights.shape[1], np.float32) if self.scale is None else (1 / self.scale).astype(np.float32)
        if "order" in scheme.transform:
            order = (np.arange(weights.shape[1]) if self.order is None else self.order).astype(np.uint32)
        return with_transform(matrix, scale, order)


def best_trial(trials: Iterable[Trial], error: Callable[[Trial | None], float]) -> Trial | None:
    """The trial of least error; None where none has less than leaving things as they are."""
    best, found = error(None), None
    for trial in trials:
        now = error(trial)
        if now < best:
            best, found = now, trial
    return found


def product_errors(shared: SharedInputs, scale: Floats | None = None, order: NDArray[np.int64] | None = None) -> float:
    """What rounding under a transform does to the products: the mean square of their error, as a share of the products'
    own, summed over consumers; without statistics that of the weights."""
    total = 0.0
    for consumer, size in zip(shared.consumers, shared.sizes, strict=True):
        weights = Stored(consumer.rounder, scale, order).transformed(consumer.weights)
        rounder = prepared(consumer.rounder, weights, consumer.scheme, shared.vectors(scale, order))
        rounded = decode(rounder.quantize(weights, consumer.scheme))
        if scale is not None:
            rounded = rounded / scale
        if order is not None:
            back = np.empty_like(rounded)
            back[:, order] = rounded
            rounded = back
        total += square(rounded - consumer.weights, shared.inputs) / size
    return total


def square(weights: Floats, inputs: InputStatistics | None) -> float:
    """The mean square of the product of weights with inputs, summed over rows."""
    if inputs is None:
        return float(np.square(weights, dtype=np.float64).sum())
    if inputs.gram is None:
        return float((np.square(weights, dtype=np.float64).sum(axis=0) * inputs.mean_square).sum())
    return float(np.einsum("rc,rc->", weights @ inputs.gram, weights, dtype=np.float64))
