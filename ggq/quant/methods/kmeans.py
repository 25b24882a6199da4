"""k-means: a codebook fitted to the weights of the tensor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import TABLE_LIMITS, Scheme
from ggq.quant.grid import extremes, fit_grid, inverse_of
from ggq.quant.matrix import QuantizedMatrix
from ggq.quant.reference import by_groups

BINS_PER_STEP = 32
"""Resolution of the histogram that Lloyd's algorithm works on."""

ROUNDS = 100
"""Most rounds of Lloyd's algorithm."""


@dataclass(frozen=True, eq=False)
class KMeans:
    """A codebook with levels of least squared error, for steps taken from the extreme weight of each group.

    The extreme weight, with its sign, is made -64 steps, as AbsMax makes it the lowest code: so groups' histograms fall
    onto each other, and the table need not be symmetric. Lloyd's algorithm on that histogram, each weight counting with
    the square of its group's step, finds the levels; they are rounded to whole steps.

    Args:
        codebook: int8 (2**bits,), what was learnt; None to learn it from the rows that are quantized.
        compiled: Whether compiled code learns; it finds the same.

    Source: Lloyd 1982, Least squares quantization in PCM; SqueezeLLM (Kim et al. 2023, arXiv 2306.07629) for weights.
    """

    name = "kmeans"

    codebook: NDArray[np.int8] | None = None
    compiled: bool = False

    def supports(self, scheme: Scheme) -> bool:
        """Whether this method can fill the scheme: a codebook."""
        return scheme.kind == "codebook" and not scheme.transform

    def prepare(self, sample: NDArray[np.float32], scheme: Scheme, inputs: Any = None) -> KMeans:
        """The method with a codebook learnt from some rows, unless it has one; see `Learner.prepare`."""
        if self.codebook is not None:
            return self
        groups = by_groups(sample, scheme)
        steps = extreme_steps(groups)
        found = fit_codebook(groups, steps, scheme.bits, sample.shape[1], compiled=self.compiled)
        return replace(self, codebook=found)

    def quantize(self, weights: NDArray[np.float32], scheme: Scheme) -> QuantizedMatrix:
        """Choose scales and codes, and the codebook if none was learnt.

        Args:
            weights: float32 (rows, columns), finite.
            scheme: One that `supports` accepts.
        """
        codebook = self.codebook if self.codebook is not None else self.prepare(weights, scheme).codebook
        groups = by_groups(weights, scheme)
        grid = fit_grid(extreme_steps(groups), scheme, codebook=codebook)
        return grid.nearest_matrix(groups, weights.shape[1])


def learnt_codebook(
    codebook: NDArray[np.int8] | None,
    sample: NDArray[np.float32],
    scheme: Scheme,
    inputs: Any = None,
    *,
    compiled: bool = False,
) -> NDArray[np.int8] | None:
    """The codebook of a method: the one it has, one fitted to a sample where the scheme needs one, or None."""
    if codebook is not None or scheme.kind != "codebook":
        return codebook
    return KMeans(compiled=compiled).prepare(sample, scheme, inputs).codebook


def extreme_steps(groups: NDArray[np.float32]) -> NDArray[np.float32]:
    """The step of each group that makes its extreme weight the lowest entry that a table may have.

    Args:
        groups: float32 (rows, groups, group).
    """
    return extremes(groups) * np.float32(1 / TABLE_LIMITS[0])


def fit_codebook(
    groups: NDArray[np.float32], steps: NDArray[np.float32], bits: int, columns: int, *, compiled: bool = False
) -> NDArray[np.int8]:
    """Lloyd's levels for weights in steps, deterministic: int8 (2**bits,), ascending, no two the same.

    Args:
        groups: float32 (rows, groups, group).
        steps: float32 (rows, groups), such that all weights lie between the limits of a table.
        bits: Of a code.
        columns: How many of the weights' columns are no padding, which counts for nothing.
        compiled: Whether compiled code does the work; it finds the same levels.
    """
    least, most = TABLE_LIMITS
    whole, rest = divmod(columns, groups.shape[2])
    mass = _histogram(groups[:, :whole], steps[:, :whole], compiled)
    if rest:  # the columns of a group with padding; few, and no multiple of what compiled code takes at once
        mass += _histogram(groups[:, whole : whole + 1, :rest], steps[:, whole : whole + 1], compiled=False)
    bins = len(mass) - 1
    centres = _lloyd(mass, np.arange(bins + 1, dtype=np.float64) / BINS_PER_STEP + least, 1 << bits, compiled)
    return _distinct(np.clip(np.rint(centres), least, most).astype(np.int64))


def _histogram(groups: NDArray[np.float32], steps: NDArray[np.float32], compiled: bool) -> NDArray[np.float64]:
    """What the weights of each bin count: a weight the square of its group's step."""
    least, most = TABLE_LIMITS
    bins = (most + 1 - least) * BINS_PER_STEP
    with np.errstate(over="ignore"):
        inverse = inverse_of(steps)
    inverse[np.isinf(inverse)] = 0  # weights so small count for nothing
    weight = np.square(steps, dtype=np.float64)
    if compiled:
        from ggq_kernels.quantize.codebook import histogram

        found: NDArray[np.float64] = histogram(
            np.ascontiguousarray(groups), inverse, weight, least, BINS_PER_STEP, bins
        )
        return found
    places = np.rint((groups * inverse[:, :, None] - least) * BINS_PER_STEP).astype(np.int64)
    each = np.broadcast_to(weight[:, :, None], groups.shape)
    return np.bincount(np.clip(places, 0, bins).ravel(), each.ravel(), bins + 1).astype(np.float64)


def _lloyd(mass: NDArray[np.float64], places: NDArray[np.float64], count: int, compiled: bool) -> NDArray[np.float64]:
    """Centres that are each the mean of the mass nearer to it than to another; ascending."""
    # Below, sums from the left: the mass and the moment of a stretch are differences of two of them.
    masses, moments = (np.append(0, np.cumsum(each)) for each in (mass, mass * places))
    spread = np.append(0, np.cumsum(np.cbrt(mass)))  # Panter and Dite: the best density of levels, about
    centres = np.interp((np.arange(count) + 0.5) / count * spread[-1], spread[1:], places)
    if compiled:
        from ggq_kernels.quantize.codebook import lloyd

        found: NDArray[np.float64] = lloyd(masses, moments, places, centres, ROUNDS)
        return found
    for _ in range(ROUNDS):
        edges = np.searchsorted(places, (centres[1:] + centres[:-1]) / 2)
        ends = np.concatenate([[0], edges, [len(places)]])
        here = np.diff(masses[ends])
        moved = np.where(here > 0, np.diff(moments[ends]) / np.where(here > 0, here, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _distinct(levels: NDArray[np.int64]) -> NDArray[np.int8]:
    """Ascending levels pushed apart where two are the same, within the limits of a table."""
    least, most = TABLE_LIMITS
    offsets = np.arange(len(levels))
    apart = np.maximum.accumulate(levels - offsets) + offsets
    apart = np.minimum(apart, most - offsets[::-1])
    return np.maximum(apart, least + offsets).astype(np.int8)
