"""The grid: which numbers the codes of each group stand for. Methods choose it and codes on it, knowing no layout.

A method wishes for a step (a zero-point, a minimum) per group; `fit_grid` rounds these to what the scheme can store and
returns what they became; then

    grid.nearest(weights, groups)   codes of weights, to nearest
    grid.values(codes, groups)      the numbers that codes stand for
    grid.matrix(codes, shape)       codes and grid together, to be stored

`groups` says which groups the columns of an array (rows, k) lie in: `WHOLE` for all columns with their padding,
another slice of groups, one group, or an int array (k,) with the group of each column.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import ENTRY_LIMITS, SUPER_GROUP, Scheme
from ggq.quant.matrix import QuantizedMatrix, geometry, largest_code, padding_code, subscale_offset
from ggq.quant.reference import code_levels, level_table, minimum_sizes, step_sizes

Groups = slice | int | NDArray[np.int64]

WHOLE = slice(None)
"""All groups of a row."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The levels of the groups of some rows: level number c of a group is `step * table[c] + shift`.

    Args:
        scheme: A scheme of codes.
        scales, subscales, zeros, minimums, subminimums, codebook: As in QuantizedMatrix: what is stored.
        step: float32 (rows, groups), exactly what the stored scales stand for; negative ones are welcome.
    """

    scheme: Scheme
    scales: NDArray[np.float16]
    step: NDArray[np.float32]
    subscales: NDArray[np.uint8] | None = None
    zeros: NDArray[np.uint8] | None = None
    minimums: NDArray[np.float16] | None = None
    subminimums: NDArray[np.uint8] | None = None
    codebook: NDArray[np.int8] | None = None

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """float32 (codes,): what each code stands for, in steps, before the shift; ascending but for codebooks."""
        return level_table(self.scheme, self.codebook)

    @cached_property
    def inverse(self) -> NDArray[np.float32]:
        """float32 (rows, groups): 1 / step, 0 where the step is 0 (S6.2)."""
        return inverse_of(self.step)

    @cached_property
    def minimum(self) -> NDArray[np.float32] | None:
        """float32 (rows, groups): the stored minimums; None where the scheme has none."""
        if self.minimums is None:
            return None
        return minimum_sizes(self.minimums, self.subminimums, self.step.shape[1])

    @cached_property
    def shift(self) -> NDArray[np.float32]:
        """float32 (rows, groups): what is added to `step * table[code]`; rounded where zero-points are."""
        if self.minimum is not None:
            return -self.minimum
        if self.zeros is not None:
            return -self.step * self.zeros.astype(np.float32)
        return np.zeros_like(self.step)

    def nearest(self, values: NDArray[np.float32], groups: Groups = WHOLE) -> NDArray[np.uint8]:
        """The codes whose numbers are nearest to some values: to nearest in steps, halves to even (S6.3, S7.3).

        Args:
            values: float32 (rows, k).
            groups: Which groups the k columns lie in.

        Returns:
            uint8 (rows, k). In a group of step 0: the code of zero steps.
        """
        steps = self._steps(values, groups)
        if self.scheme.kind == "binary":
            return (steps.reshape(values.shape) >= 0).astype(np.uint8)
        if self.codebook is not None:
            return nearest_entries(steps.reshape(values.shape), self.table)
        np.rint(steps, out=steps)
        if self.zeros is not None:
            steps += _expand(self.zeros.astype(np.float32), groups, steps)
        else:
            steps -= self.table[0]
        np.clip(steps, 0, largest_code(self.scheme), out=steps)
        with np.errstate(invalid="ignore"):  # steps that are NaN, under an infinite scale, which `pack` refuses
            return steps.astype(np.uint8).reshape(values.shape)

    def values(self, codes: NDArray[np.uint8], groups: Groups = WHOLE) -> NDArray[np.float32]:
        """The numbers that codes stand for, rounded exactly as `ggq.quant.reference.decode_stored` rounds them.

        Args:
            codes: uint8 (rows, k).
            groups: Which groups the k columns lie in.

        Returns:
            float32 (rows, k).
        """
        levels = _shaped(code_levels(self.scheme, codes, self.codebook), self.step, groups)
        if self.zeros is not None:
            levels -= _expand(self.zeros.astype(np.float32), groups, levels)
        numbers = _expand(self.step, groups, levels) * levels
        if self.minimum is not None:
            numbers -= _expand(self.minimum, groups, numbers)
        return numbers.reshape(codes.shape)

    def matrix(self, codes: NDArray[np.uint8], shape: tuple[int, int]) -> QuantizedMatrix:
        """The quantized matrix of these rows.

        Args:
            codes: uint8 (rows, columns), with or without padding columns; what they hold is replaced by what the
                format asks for.
            shape: Rows and columns.
        """
        sizes, columns = geometry(self.scheme, shape), shape[1]
        whole = codes
        if sizes.padded_columns != columns:
            whole = np.full((shape[0], sizes.padded_columns), padding_code(self.scheme), np.uint8)
            whole[:, :columns] = codes[:, :columns]
            if self.zeros is not None:
                whole[:, columns:] = self.zeros[:, np.arange(columns, sizes.padded_columns) // sizes.group]
        return QuantizedMatrix(
            self.scheme,
            shape,
            whole,
            self.scales,
            self.zeros,
            self.subscales,
            self.minimums,
            self.subminimums,
            self.codebook,
        )

    def nearest_matrix(self, groups: NDArray[np.float32], columns: int) -> QuantizedMatrix:
        """The quantized matrix of the codes nearest to some weights.

        Args:
            groups: float32 (rows, groups, columns of a group), as `ggq.quant.reference.by_groups` makes it.
            columns: How many of the weights' columns are no padding.
        """
        return self.matrix(self.nearest(groups.reshape(len(groups), -1)), (len(groups), columns))

    def _steps(self, values: NDArray[np.float32], groups: Groups) -> NDArray[np.float32]:
        """Values in steps from the shift, in a new array of three dimensions where `groups` is a slice."""
        shaped = _shaped(values, self.step, groups)
        inverse = _expand(self.inverse, groups, shaped)
        if self.minimum is None:
            return shaped * inverse
        steps: NDArray[np.float32] = shaped + _expand(self.minimum, groups, shaped)
        steps *= inverse
        return steps


def fit_grid(
    step: NDArray[np.float32],
    scheme: Scheme,
    *,
    zero: NDArray[np.float32] | None = None,
    minimum: NDArray[np.float32] | None = None,
    codebook: NDArray[np.int8] | None = None,
) -> Grid:
    """Round what a method wishes for to what a scheme can store.

    Scales are rounded to f16. Of two-level scales, the scale of a super-group makes its largest step the last
    sub-scale; a sub-scale that would be 0 becomes 1 where that comes nearer to the group's largest level. Symmetric
    schemes have sub-scales from -2**(s - 1) to 2**(s - 1) - 1, so steps of both signs use all of them.

    Args:
        step: float32 (rows, groups), the wished steps. Of a scheme with zero-points or minimums of two levels they
            have one sign.
        scheme: A scheme of codes; its transform does not matter.
        zero: (rows, groups), wished zero-points, in codes; rounded and clipped. Only with zero "code".
        minimum: (rows, groups), what each group takes off (minus its smallest weight). Stored with zero "minimum";
            with zero "code" it becomes the zero-point nearest to it under the stored step.
        codebook: int8 (2**bits,), only and always with kind "codebook".

    Returns:
        A grid whose scales are infinite where they are too large for f16; `pack` refuses those.

    Source: spec/schemes.md, S6.
    """
    # The shift does not grow with the step, so what counts is how far codes reach from it.
    reach = np.float32(np.abs(level_table(scheme, codebook)).max())
    scales, subscales = _store(step, scheme.subscale, subscale_offset(scheme), reach)
    stored = step_sizes(scheme, scales, subscales, step.shape[1])
    grid = Grid(scheme, scales, stored, subscales, codebook=codebook)
    if scheme.zero == "code":
        if zero is None:
            assert minimum is not None
            zero = np.rint(minimum * grid.inverse)
        zeros = np.clip(np.rint(zero), 0, largest_code(scheme)).astype(np.uint8)
        return replace(grid, zeros=zeros)
    if scheme.zero == "minimum":
        assert minimum is not None
        minimums, subminimums = _store(minimum, scheme.subscale, 0, np.float32(1))
        return replace(grid, minimums=minimums, subminimums=subminimums)
    return grid


def extremes(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The number of largest magnitude along the last axis; of two as large, the positive one."""
    high, low = values.max(axis=-1), values.min(axis=-1)
    return np.where(high >= -low, high, low)


def stored_scales(scales: NDArray[np.float32]) -> NDArray[np.float16]:
    """Scales as they are stored: float16, to nearest and halves to even, zeros positive, infinite where too large.

    Source: spec/schemes.md, S6.1.
    """
    with np.errstate(over="ignore", under="ignore"):
        stored = scales.astype(np.float16)
    stored[stored == 0] = 0
    return stored


def inverse_of(steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / steps, and 0 where a step is 0 (S6.2)."""
    with np.errstate(divide="ignore"):
        return np.where(steps == 0, np.float32(0), np.float32(1) / steps)


def nearest_entries(steps: NDArray[np.float32], table: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Places of the entries of a table that are nearest to numbers; of two as near, the smaller entry's.

    Args:
        steps: float32, any shape.
        table: float32 (n,), whole numbers from -127 to 127 in any order; of equal entries the first is taken.
    """
    # The middles between entries are whole numbers of halves, so it is enough to know each number's upper half.
    halves = np.arange(2 * ENTRY_LIMITS[0], 2 * ENTRY_LIMITS[1] + 1)
    order = np.argsort(table, kind="stable")
    entries, first = np.unique(table[order], return_index=True)
    codes = order[first].astype(np.uint8)[np.searchsorted((entries[1:] + entries[:-1]) / 2, halves / 2)]
    upper = steps * np.float32(2)
    np.ceil(upper, out=upper)
    np.clip(upper, halves[0], halves[-1], out=upper)
    upper -= np.float32(halves[0])
    with np.errstate(invalid="ignore"):  # NaN, under an infinite scale, which `pack` refuses
        places = upper.astype(np.uint16)
    return codes.take(places)


def _store(
    wished: NDArray[np.float32], bits: int, offset: int, reach: np.float32
) -> tuple[NDArray[np.float16], NDArray[np.uint8] | None]:
    """Numbers (rows, groups) as f16, or as f16 per super-group and codes of so many bits less an offset per group."""
    if not bits:
        return stored_scales(wished), None
    rows, groups = wished.shape
    supers = -(-groups // SUPER_GROUP)
    padded = np.zeros((rows, supers, SUPER_GROUP), np.float32)
    padded.reshape(rows, -1)[:, :groups] = wished
    last = -offset if offset else (1 << bits) - 1  # where codes have both signs, the negative side has one more
    upper = stored_scales(extremes(padded) * np.float32(1 / last))
    inverse = inverse_of(upper.astype(np.float32))[:, :, None]
    exact = padded * inverse
    codes = np.rint(exact)
    # Half the step above is farther from a small step than that step's largest level from zero.
    lost = (codes == 0) & (np.abs(exact) * reach > 0.5)
    codes[lost] = np.copysign(np.float32(1), exact[lost])
    codes = np.clip(codes + offset, 0, (1 << bits) - 1).astype(np.uint8)
    return upper, np.ascontiguousarray(codes.reshape(rows, -1)[:, :groups])


def _shaped(values: NDArray[Any], per_group: NDArray[Any], groups: Groups) -> NDArray[Any]:
    """(rows, k) as (rows, groups, columns of a group) where `groups` is a slice, else as it is."""
    if not isinstance(groups, slice):
        return values
    count = len(range(per_group.shape[1])[groups])
    return values.reshape(len(values), count, -1)


def _expand(per_group: NDArray[np.float32], groups: Groups, values: NDArray[Any]) -> NDArray[np.float32]:
    """Numbers (rows, groups) so that they broadcast against what `_shaped` made."""
    if isinstance(groups, slice):
        return per_group[:, groups, None]
    if isinstance(groups, (int, np.integer)):
        return per_group[:, groups, None]
    return per_group[:, groups]
