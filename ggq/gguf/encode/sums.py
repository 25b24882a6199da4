"""Groups of weights as lanes, and the sums that a search for steps asks for: everything is an array of lanes.

For levels q under a step and a shift, the weighted squared error of a group is a closed form of three sums and of three
that do not depend on q; so a trial costs one rounding of each weight, and all else is done once for a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LANES = 16
"""Lanes that a vector of compiled code has."""


@dataclass(frozen=True, eq=False)
class Levels:
    """What weights in steps are rounded to.

    Args:
        low, high: The least and the largest, whole numbers between which all are levels; or
        table: float32 (n,), ascending: all levels.
    """

    low: float = 0.0
    high: float = 0.0
    table: Floats | None = None

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """The least level and the largest."""
        return (self.low, self.high) if self.table is None else (float(self.table[0]), float(self.table[-1]))

    @cached_property
    def operands(self) -> tuple[Floats, int]:
        """As compiled code has them; see `ggq_kernels.quantize.sums.level_sums`."""
        if self.table is None:
            return np.array([self.low, self.high], np.float32), 0
        marks = self.table[1:] / 2 + self.table[:-1] / 2
        return np.concatenate([self.table[:1], np.stack([marks, np.diff(self.table)], 1).ravel()]), len(marks)

    def nearest(self, t: Floats) -> Floats:
        """The nearest level of each number; of two as near the even whole number, or the smaller entry of a table."""
        if self.table is None:
            return np.asarray(np.rint(np.clip(t, np.float32(self.low), np.float32(self.high))), np.float32)
        return np.asarray(self.table[np.searchsorted(self.operands[0][1::2], t)], np.float32)


class Lanes:
    """Blocks of weights, group by group.

    Args:
        blocks: float32 (blocks, numbers of a block), finite.
        energy: Of that shape, positive: what the square of an error counts.
        group: Numbers of a group.
        compiled: Whether compiled code adds; the order of additions is the same.
    """

    def __init__(self, blocks: Floats, energy: Floats, group: int, *, compiled: bool = True) -> None:
        count, numbers = blocks.shape
        self.blocks, self.groups, self.compiled = count, numbers // group, compiled
        self.padded = -(-count // LANES) * LANES
        self.x, self.energy = (self._lanes(each, group) for each in (blocks, energy))
        self.energy[self.energy == 0] = 1  # of lanes without a block

    def _lanes(self, blocks: Floats, group: int) -> Floats:
        """As compiled code has them: float32 (groups, tiles, group, LANES)."""
        made = np.zeros((self.groups, group, self.padded), np.float32)
        made[:, :, : self.blocks] = blocks.reshape(self.blocks, self.groups, group).transpose(1, 2, 0)
        tiles = made.reshape(self.groups, group, -1, LANES).transpose(0, 2, 1, 3)
        return np.ascontiguousarray(tiles)

    @cached_property
    def totals(self) -> tuple[Floats, Floats, Floats]:
        """By group, float32 (groups, lanes): sums of the energy, and of its products with weights and their squares."""
        weighted = self.energy * self.x
        return tuple(self._by_group(each) for each in (self.energy, weighted, weighted * self.x))  # type: ignore[return-value]

    def _by_group(self, terms: Floats) -> Floats:
        return np.asarray(terms.sum(2).reshape(self.groups, self.padded))

    def sums(self, levels: Levels, step: Floats, shift: Floats | None = None) -> tuple[Floats, Floats, Floats]:
        """Sums over each group of energy q, energy q x and energy q q, where q is the level nearest to
        (x + shift) / step; float32 (groups, lanes) each. A step of 0 gives the level nearest to 0."""
        return self._run(levels, step, shift, None)

    def codes(self, levels: Levels, step: Floats, shift: Floats | None = None) -> Floats:
        """The levels themselves, float32 (blocks, groups, group)."""
        found = np.empty_like(self.x)
        self._run(levels, step, shift, found)
        by_block = found.transpose(1, 3, 0, 2).reshape(self.padded, self.groups, -1)
        return np.ascontiguousarray(by_block[: self.blocks])

    def _run(
        self, levels: Levels, step: Floats, shift: Floats | None, found: Floats | None
    ) -> tuple[Floats, Floats, Floats]:
        shape = (self.groups, self.padded)
        inverse = np.ascontiguousarray(np.broadcast_to(inverse_of(step), shape))
        moved = np.zeros(shape, np.float32) if shift is None else np.ascontiguousarray(shift, np.float32)
        flat = (-1, self.x.shape[2], LANES)
        out = None if found is None else found.reshape(flat)
        arrays = (self.x.reshape(flat), self.energy.reshape(flat), inverse.ravel(), moved.ravel())
        if self.compiled:
            from ggq_kernels.quantize.sums import level_sums

            sums = level_sums(*arrays, *levels.operands, out)
        else:
            sums = reference_sums(*arrays, levels, out)
        ones, products, squares = sums.reshape(3, *shape)
        return ones, products, squares

    def error(self, levels: Levels, step: Floats, shift: Floats | None = None) -> Floats:
        """The weighted squared error of each group under a step, from which a shift is taken."""
        whole, whole_x, whole_xx = self.totals
        ones, products, squares = self.sums(levels, step, shift)
        found = whole_xx - step * (2 * products - step * squares)
        if shift is not None:
            found += shift * (2 * whole_x + shift * whole - 2 * step * ones)
        return np.asarray(found, np.float32)


def reference_sums(
    x: Floats, energy: Floats, inverse: Floats, shift: Floats, levels: Levels, found: Floats | None
) -> Floats:
    """What compiled code adds, by NumPy.

    Args:
        x, energy: float32 (tiles, group, LANES).
        inverse, shift: float32 (LANES * tiles,), by lane.
        levels: What weights are rounded to.
        found: Where levels are written, or None.

    Returns:
        float32 (3, LANES * tiles); terms are added one after the other.
    """
    q = levels.nearest((x + shift.reshape(-1, 1, LANES)) * inverse.reshape(-1, 1, LANES))
    if found is not None:
        found[...] = q
    sums = np.zeros((3, len(x), LANES), np.float32)
    for i in range(x.shape[1]):
        counted = q[:, i] * energy[:, i]
        sums += np.stack([counted, counted * x[:, i], counted * q[:, i]])
    return sums.reshape(3, -1)


def inverse_of(numbers: Floats) -> Floats:
    """1 / number, or 0 where it is 0 or so small that there is no float32."""
    with np.errstate(divide="ignore", over="ignore"):
        found = np.float32(1) / numbers
    return np.where(np.isfinite(found), found, np.float32(0)).astype(np.float32)


def quotient(above: Floats, below: Floats) -> Floats:
    """above / below, or 0 where that is 0 or less."""
    there = below > 0
    return np.where(there, above / np.where(there, below, np.float32(1)), np.float32(0)).astype(np.float32)


def halved(numbers: Floats) -> Floats:
    """Rounded to f16, kept within its range."""
    return np.clip(numbers, -65504, 65504).astype(np.float16).astype(np.float32)
