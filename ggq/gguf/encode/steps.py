"""Steps without minimums: one f16 for a block, or a whole number for each group under one f16."""

from __future__ import annotations

import numpy as np

from ggq.gguf.encode.sums import Floats, Lanes, Levels, halved, inverse_of, quotient

TURNS = 3
"""Times that what is stored and the levels are fitted to each other."""

UPPER_TRIALS = 12
"""Upper scales that are tried, each of which puts the longest step somewhat nearer to the middle of its range."""


def stretches(levels: Levels, count: int, most: float) -> list[float]:
    """Levels to which a trial puts the extreme weight of a group: below the last level, and beyond it by so much."""
    low, high = levels.extremes
    factors = [1.0, *np.geomspace(1 / min(most, 1.12), most, count - 1)]
    ends = [high] if low == -high else [low, high]  # by symmetry one end tells all
    return [float(end * factor) for end in ends for factor in factors]


def best_steps(lanes: Lanes, levels: Levels, trials: list[float]) -> tuple[Floats, Floats]:
    """The step of each group whose nearest levels take most off the error.

    Args:
        lanes: The groups.
        levels: What weights are rounded to.
        trials: Levels to which the weight of largest size is put.

    Returns:
        The steps, float32 (groups, lanes), of either sign; and what the square of a change of each costs.
    """
    place = np.abs(lanes.x).argmax(axis=2)[:, :, None]
    extreme = np.take_along_axis(lanes.x, place, axis=2).reshape(lanes.groups, lanes.padded)
    best, step, cost = np.zeros_like(extreme), np.zeros_like(extreme), np.zeros_like(extreme)
    for trial in trials:
        _, products, squares = lanes.sums(levels, extreme / np.float32(trial))
        fitted = quotient(products, squares)
        better = fitted * products > best
        best, step = np.where(better, fitted * products, best), np.where(better, fitted, step)
        cost = np.where(better, squares, cost)
    return step, cost


def one_step(lanes: Lanes, levels: Levels, trials: list[float]) -> Floats:
    """The step of each block of one group, as f16 stores it: float32 (1, lanes)."""
    step = halved(best_steps(lanes, levels, trials)[0])
    best = lanes.error(levels, step)
    for _ in range(TURNS):
        _, products, squares = lanes.sums(levels, step)
        fitted = halved(quotient(products, squares))
        error = lanes.error(levels, fitted)
        better = error < best
        step, best = np.where(better, fitted, step), np.where(better, error, best)
    return step


def two_level_steps(lanes: Lanes, levels: Levels, trials: list[float], low: int, high: int) -> tuple[Floats, Floats]:
    """Steps that are a whole number times one f16.

    Args:
        lanes, levels, trials: As in `best_steps`.
        low, high: Between which the whole numbers lie.

    Returns:
        The upper scale of each block, float32 (lanes,), a number of f16; and whole numbers, float32 (groups, lanes).
    """
    upper, lower = _wished(*best_steps(lanes, levels, trials), low, high)
    kept, least = (upper, lower), np.full(upper.shape, np.inf, np.float32)
    for turn in range(TURNS):
        lower, error = _neighbours(lanes, levels, upper, lower, low, high)
        total = error.sum(0)
        better = total < least
        least = np.where(better, total, least)
        kept = (np.where(better, upper, kept[0]), np.where(better, lower, kept[1]))
        if turn < TURNS - 1:
            _, products, squares = lanes.sums(levels, upper * lower)
            fitted = quotient((products * lower).sum(0), (squares * lower * lower).sum(0))
            upper = np.where(fitted == 0, upper, halved(fitted))
    return kept


def _wished(steps: Floats, costs: Floats, low: int, high: int) -> tuple[Floats, Floats]:
    """The upper scale under which what is stored is nearest to wished steps."""
    place = np.abs(steps).argmax(axis=0)[None]
    longest = np.take_along_axis(steps, place, axis=0)[0]
    kept, least = (np.zeros_like(longest), np.zeros_like(steps)), np.full(longest.shape, np.inf, np.float32)
    for end in np.linspace(low, 0.7 * low, UPPER_TRIALS, dtype=np.float32):
        first = halved(longest / end)
        lower = np.clip(np.rint(steps * inverse_of(first)), low, high)
        fitted = halved(quotient((costs * lower * steps).sum(0), (costs * lower * lower).sum(0)))
        for upper in (first, fitted):
            lower = np.clip(np.rint(steps * inverse_of(upper)), low, high)
            error = (costs * (steps - upper * lower) ** 2).sum(0)
            better = error < least
            least = np.where(better, error, least)
            kept = (np.where(better, upper, kept[0]), np.where(better, lower, kept[1]))
    return kept


def _neighbours(
    lanes: Lanes, levels: Levels, upper: Floats, lower: Floats, low: int, high: int
) -> tuple[Floats, Floats]:
    """Of each whole number and the two beside it the one of least error, and that error."""
    least, found = lanes.error(levels, upper * lower), lower
    for move in (-1, 1):
        tried = np.clip(lower + np.float32(move), low, high)
        error = lanes.error(levels, upper * tried)
        better = error < least
        least, found = np.where(better, error, least), np.where(better, tried, found)
    return found, least
