"""HQQ: shifts for which the errors are sparse, found without data by half-quadratic splitting."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.grid import Grid, extremes
from ggq.quant.matrix import QuantizedMatrix, largest_code
from ggq.quant.reference import by_groups, level_table
from ggq.quant.search.steps import CHUNK_WEIGHTS, rounding, wished_grid

Floats = NDArray[np.float32]

POWER = 0.7
"""p of the norm: below 1 it forgives a few large errors, those of outliers, for many small ones."""

BETA, KAPPA, ROUNDS = 10.0, 1.01, 20
"""The published program's weight of the splitting, its growth in each round, and rounds."""


class HQQ:
    """Least sum of |error|**p per group, in steps: by turns the errors are shrunk to a sparse part, and the shift is
    refitted to what is left. The step is that of the group's range; a scheme without a minimum has its step refitted
    instead (a whole zero-point never moves: what is left to meet is off by less than half a step). Of all rounds each
    group keeps the one with the least sum.

    Source: Badri and Shaji 2023, Half-Quadratic Quantization of Large Machine Learning Models (Mobius Labs).
    """

    name = "hqq"

    def supports(self, scheme: Scheme) -> bool:
        """Whether this method can fill the scheme: uniform codes."""
        return scheme.kind == "uniform" and not scheme.transform

    def quantize(self, weights: Floats, scheme: Scheme) -> QuantizedMatrix:
        """Choose a grid and codes.

        Args:
            weights: float32 (rows, columns), finite.
            scheme: One that `supports` accepts.
        """
        groups = by_groups(weights, scheme)
        grid = self.grid(groups, scheme, weights.shape[1])
        return grid.nearest_matrix(groups, weights.shape[1])

    def grid(self, groups: Floats, scheme: Scheme, columns: int) -> Grid:
        """The grid of weights (rows, groups, group), of which so many columns are no padding."""
        present = (np.arange(groups[0].size) < columns).astype(np.float32).reshape(groups.shape[1:])
        count = max(1, CHUNK_WEIGHTS // max(1, groups[0].size))
        parts = [self._solve(groups[start : start + count], scheme, present) for start in range(0, len(groups), count)]
        steps = np.concatenate([part[0] for part in parts])
        shifts = None if scheme.zero == "none" else np.concatenate([part[1] for part in parts])
        return wished_grid(steps, shifts, scheme)

    def _solve(self, x: Floats, scheme: Scheme, present: Floats) -> tuple[Floats, Floats]:
        """Steps, and zero-points or minimums (zeros where there are none); `present`, (groups, group), is 0 in padding
        and else 1."""
        counts = np.maximum(present.sum(axis=1), 1)
        if scheme.zero == "none":
            step = extremes(x) / level_table(scheme)[0]
        else:
            high, low = x.max(axis=2, initial=0), x.min(axis=2, initial=0)
            step = (high - low) / np.float32(largest_code(scheme))
        step = np.where(step == 0, np.float32(1), step)
        zero: Floats = np.zeros_like(step) if scheme.zero == "none" else -low / step
        if scheme.zero == "code":
            zero = np.clip(np.rint(zero), 0, largest_code(scheme))
        best = np.full(step.shape, np.inf, np.float32)
        kept_step, kept_zero, beta, rounded = step, zero, BETA, rounding(scheme)
        for _ in range(ROUNDS):
            steps = (x / step[:, :, None]).astype(np.float32, copy=False)
            q: Floats = rounded((steps + zero[:, :, None]).astype(np.float32, copy=False)) - zero[:, :, None]
            error = steps - q
            size = np.abs(error)
            total = (np.power(size, POWER) * present).sum(axis=2) * np.abs(step) ** POWER
            better = total < best
            best = np.where(better, total, best)
            kept_step, kept_zero = np.where(better, step, kept_step), np.where(better, zero, kept_zero)
            with np.errstate(divide="ignore", invalid="ignore"):
                sparse = np.copysign(np.maximum(size - np.power(size, POWER - 1) / beta, 0), error)
            steps -= sparse  # what the levels have to meet
            if scheme.zero != "minimum":
                squares = np.einsum("rgc,rgc->rg", q, q)
                product = np.einsum("rgc,rgc->rg", steps, q)
                step = step * np.where(squares > 0, product / np.maximum(squares, 1), 1)
            else:
                zero = zero - ((steps - q) * present).sum(axis=2) / counts
            beta *= KAPPA
        return kept_step, kept_zero * kept_step if scheme.zero == "minimum" else kept_zero
