"""The grid that training begins from: what a post-training method chooses, as numbers that may move."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant import choose_method
from ggq.quant.grid import Grid, fit_grid
from ggq.quant.matrix import QuantizedMatrix, geometry
from ggq.quant.methods import Learner
from ggq.quant.methods.fitted import Fitted
from ggq.quant.methods.kmeans import KMeans
from ggq.quant.reference import code_levels, decode, level_table, minimum_sizes, step_sizes

Floats = NDArray[np.float32]

INSIDE = 0.45
"""Share of the way to the next level at which a weight still has its code for certain."""


@dataclass(frozen=True, eq=False)
class Wished:
    """What a method or a training wishes for a matrix; `grid` is what the scheme can store of it.

    Args:
        scheme: A scheme of codes without transforms.
        step: float32 (rows, groups).
        shift: float32 (rows, groups): zero-points in codes where the scheme has them, minimums where it has those, else
            None.
        codebook: int8 (2**bits,) where codes are places in a table.
    """

    scheme: Scheme
    step: Floats
    shift: Floats | None = None
    codebook: NDArray[np.int8] | None = None

    def grid(self) -> Grid:
        """Steps, zero-points and minimums as they are stored."""
        zero, minimum = None, None
        if self.scheme.zero == "code":
            zero = self.shift
        elif self.scheme.zero == "minimum":
            minimum = self.shift
        return fit_grid(self.step, self.scheme, zero=zero, minimum=minimum, codebook=self.codebook)


def quantized_by(
    weights: Floats,
    scheme: Scheme,
    method: str | None,
    inputs: Any = None,
    codebook: NDArray[np.int8] | None = None,
) -> QuantizedMatrix:
    """What a post-training method makes of a matrix.

    Args:
        weights: float32 (rows, columns), finite.
        scheme: A scheme of codes without transforms.
        method: Name of a method that needs no more than `inputs`; None for the scheme's default.
        inputs: What is known of the matrix's inputs (`ggq.quant.inputs`), for methods that need it.
        codebook: int8 (2**bits,): the codebook to keep; None for the method's own.
    """
    chosen = choose_method(scheme, method)
    if isinstance(chosen, Fitted | KMeans):
        chosen = replace(chosen, compiled=True, codebook=codebook)
    if codebook is not None and isinstance(chosen, KMeans):
        return chosen.quantize(weights, scheme)
    if isinstance(chosen, Learner):
        chosen = chosen.prepare(weights, scheme, inputs)
    return chosen.quantize(weights, scheme)


def wished_by(weights: Floats, scheme: Scheme, method: str | None, inputs: Any = None) -> Wished:
    """The grid that a post-training method chooses for a matrix; arguments as for `quantized_by`."""
    return wishes_of(quantized_by(weights, scheme, method, inputs))


def wishes_of(matrix: QuantizedMatrix) -> Wished:
    """The grid of a quantized matrix."""
    scheme, groups = matrix.scheme, geometry(matrix.scheme, matrix.shape).groups
    shift: Floats | None = None
    if matrix.zeros is not None:
        shift = matrix.zeros.astype(np.float32)
    elif matrix.minimums is not None:
        shift = minimum_sizes(matrix.minimums, matrix.subminimums, groups)
    step = step_sizes(scheme, matrix.scales, matrix.subscales, groups)
    return Wished(scheme, np.array(step), shift, matrix.codebook)


def near_codes(weights: Floats, matrix: QuantizedMatrix) -> Floats:
    """Weights moved no farther than it takes for their nearest codes to be those of a matrix.

    A method such as GPTQ rounds some weights the other way to make up for the errors of others; training that begins
    from its grid alone would lose that. Weights beyond the outermost levels are moved to within INSIDE of a step.

    Args:
        weights: float32 (rows, columns).
        matrix: Of the same shape.
    """
    columns, wished = weights.shape[1], wishes_of(matrix)
    group = np.arange(columns) // geometry(matrix.scheme, matrix.shape).group
    levels = np.unique(level_table(matrix.scheme, matrix.codebook)).astype(np.float64)
    apart = np.diff(levels, prepend=-np.inf, append=np.inf)
    reach = np.minimum(apart[:-1], apart[1:]) * INSIDE
    level = code_levels(matrix.scheme, matrix.codes[:, :columns], matrix.codebook)
    most = (reach[np.searchsorted(levels, level)] * np.abs(wished.step[:, group])).astype(np.float32)
    numbers = decode(matrix)
    return numbers + np.clip(weights - numbers, -most, most)


def ternary_threshold(groups: Floats) -> tuple[Floats, Floats]:
    """Threshold and step of ternary weights.

    Args:
        groups: float32 (rows, groups, group), padding as zeros.

    Returns:
        0.7 times the mean magnitude of each group, and the mean magnitude of the weights beyond it: float32 (rows,
        groups) each, the step 0 where none is.

    Source: Li et al. 2016, Ternary Weight Networks (arXiv 1605.04711), equations 5 and 6.
    """
    sizes = np.abs(groups)
    threshold = np.float32(0.7) * sizes.mean(axis=2, dtype=np.float32)
    beyond = sizes > threshold[..., None]
    count = beyond.sum(axis=2)
    total = np.where(beyond, sizes, np.float32(0)).sum(axis=2, dtype=np.float32)
    return threshold, (total / np.maximum(count, 1)).astype(np.float32)
