"""Steps with minimums: of each group a whole number under an f16 for either."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggq.gguf.encode.sums import Floats, Lanes, Levels, halved, inverse_of, quotient

TURNS = 3
"""Times that upper scales, whole numbers and levels are fitted to each other."""


@dataclass(frozen=True, eq=False)
class Lines:
    """What is stored of steps and minimums.

    Args:
        step, minimum: Upper scales, float32 (lanes,), numbers of f16.
        steps, minimums: Whole numbers under them, float32 (groups, lanes).
    """

    step: Floats
    minimum: Floats
    steps: Floats
    minimums: Floats

    def better(self, other: Lines, where: NDArray[np.bool_]) -> Lines:
        """Blocks of the other one where that is better."""
        pairs = zip(vars(self).values(), vars(other).values())
        return Lines(*(np.where(where, theirs, ours) for ours, theirs in pairs))


def best_lines(lanes: Lanes, levels: Levels, trials: list[tuple[float, float]]) -> tuple[Floats, Floats]:
    """The step and the minimum, which is taken off and not negative, of each group whose nearest levels take most off
    the error.

    Args:
        lanes: The groups.
        levels: Whole numbers from 0.
        trials: Over how many steps the range is spread, and the share of it that is cut off below.
    """
    by_group = lanes.x.transpose(0, 1, 3, 2).reshape(lanes.groups, lanes.padded, -1)
    least, most = np.minimum(by_group.min(2), 0), by_group.max(2)
    span = np.maximum(most - least, 0)
    whole, whole_x, _ = lanes.totals
    best, step, minimum = np.full(span.shape, -np.inf, np.float32), np.zeros_like(span), np.maximum(-least, 0)
    for spread, cut in trials:
        sums = lanes.sums(levels, span / np.float32(spread), -least - np.float32(cut) * span)
        fitted, shift, gain = _fit(*sums, whole, whole_x)
        better = gain > best
        best, step = np.where(better, gain, best), np.where(better, fitted, step)
        minimum = np.where(better, shift, minimum)
    return step, minimum


def _fit(
    ones: Floats, products: Floats, squares: Floats, whole: Floats, whole_x: Floats
) -> tuple[Floats, Floats, Floats]:
    """Of given levels: the best step, the best minimum, and what they take off the error."""
    determinant = whole * squares - ones * ones
    fits = determinant > 1e-6 * whole * squares
    safe = np.where(fits, determinant, np.float32(1))
    step, minimum = (whole * products - whole_x * ones) / safe, (ones * products - squares * whole_x) / safe
    below = fits & (minimum >= 0) & (step >= 0)
    step = np.where(below, step, np.maximum(quotient(products, squares), 0))
    minimum = np.where(below, minimum, np.float32(0))
    gain = step * products - minimum * whole_x
    return step.astype(np.float32), minimum.astype(np.float32), gain.astype(np.float32)


def two_level_lines(lanes: Lanes, levels: Levels, trials: list[tuple[float, float]], high: int) -> Lines:
    """Steps and minimums that are whole numbers times an f16.

    Args:
        lanes, levels, trials: As in `best_lines`.
        high: The largest whole number; the least is 0.
    """
    wished = best_lines(lanes, levels, trials)
    # Shorter upper scales, which clip the longest steps, were tried too: no better for Q2_K, of the others none won.
    uppers = [halved(each.max(0) / np.float32(high)) for each in wished]
    found = kept = Lines(*uppers, *(_whole(each, upper, high) for each, upper in zip(wished, uppers)))
    least = np.full(lanes.padded, np.inf, np.float32)
    for turn in range(TURNS):
        found, error = _neighbours(lanes, levels, found, high)
        total = error.sum(0)
        kept, least = kept.better(found, total < least), np.minimum(least, total)
        if turn < TURNS - 1:
            found = _refitted(lanes, levels, found)
    return kept


def _whole(numbers: Floats, upper: Floats, high: int) -> Floats:
    return np.clip(np.rint(numbers * inverse_of(upper)), 0, high)


def _neighbours(lanes: Lanes, levels: Levels, start: Lines, high: int) -> tuple[Lines, Floats]:
    """Whole numbers of least error near to some: each step and the two beside it with the minimum that suits it, then
    minimums beside that; and the error of each group."""
    whole, whole_x, _ = lanes.totals
    steps, minimums = start.steps, start.minimums
    least = lanes.error(levels, start.step * steps, start.minimum * minimums)
    for move in (0, -1, 1):
        tried = np.clip(start.steps + np.float32(move), 0, high)
        ones, _, _ = lanes.sums(levels, start.step * tried, start.minimum * start.minimums)
        below = _whole(quotient(start.step * tried * ones - whole_x, whole), start.minimum, high)
        error = lanes.error(levels, start.step * tried, start.minimum * below)
        better = error < least
        least, steps = np.where(better, error, least), np.where(better, tried, steps)
        minimums = np.where(better, below, minimums)
    middle = minimums
    for move in (-1, 1):
        below = np.clip(middle + np.float32(move), 0, high)
        error = lanes.error(levels, start.step * steps, start.minimum * below)
        better = error < least
        least, minimums = np.where(better, error, least), np.where(better, below, minimums)
    return Lines(start.step, start.minimum, steps, minimums), least


def _refitted(lanes: Lanes, levels: Levels, found: Lines) -> Lines:
    """Upper scales of least error for the levels and whole numbers that there are."""
    whole, whole_x, _ = lanes.totals
    ones, products, squares = lanes.sums(levels, found.step * found.steps, found.minimum * found.minimums)
    a, b = found.steps, found.minimums
    aa, ab, bb = (squares * a * a).sum(0), (ones * a * b).sum(0), (whole * b * b).sum(0)
    xa, xb = (products * a).sum(0), (whole_x * b).sum(0)
    determinant = aa * bb - ab * ab
    fits = determinant > 1e-6 * aa * bb
    safe = np.where(fits, determinant, np.float32(1))
    step = np.where(fits, (xa * bb - xb * ab) / safe, quotient(xa + found.minimum * ab, aa))
    minimum = np.where(fits, (xa * ab - xb * aa) / safe, found.minimum)
    bad = (step <= 0) | (minimum < 0)
    uppers = np.where(bad, found.step, step), np.where(bad, found.minimum, minimum)
    return Lines(halved(uppers[0]), halved(uppers[1]), a, b)
