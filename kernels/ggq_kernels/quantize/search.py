"""Steps of a block of rows: what search_rows.py needs, from arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ggq_kernels.code import ready

rows = ready.module("search_rows")


@dataclass(frozen=True)
class Levels:
    """What weights in steps are rounded to.

    Args:
        kind: "whole", "sign" or "table".
        entries: float32, the least level and the largest; or int8: the first entry of a table, then for each mark its
            halves and what is gained beyond it.
    """

    kind: str
    entries: np.ndarray


def whole_levels(low: float, high: float) -> Levels:
    """Whole numbers between two, halves rounded to even."""
    return Levels("whole", np.array([low, high], np.float32))


def sign_levels(low: float, high: float) -> Levels:
    """Two numbers, the higher one from zero on."""
    return Levels("sign", np.array([low, high], np.float32))


def table_levels(entries: np.ndarray) -> Levels:
    """The nearest entry of a table, int8 (n,), ascending, from -64 to 63; of two as near, the smaller."""
    found, wide = np.zeros(2 * len(entries) - 1, np.int8), entries.astype(np.int16)
    found[0], found[1::2], found[2::2] = entries[0], wide[1:] + wide[:-1], np.diff(wide)
    return Levels("table", found)


@dataclass(frozen=True)
class Stored:
    """How steps are stored.

    Args:
        bits: Of a sub-scale; 0 where each step is a scale of its own.
        offset: What is taken off a sub-scale.
        reach: How far levels reach from zero.
        turns: How often steps of two levels are stored and refitted, at least once.
    """

    bits: int
    offset: int
    reach: float
    turns: int


def search(
    x: np.ndarray,
    energy: np.ndarray,
    levels: Levels,
    numerators: np.ndarray,
    turns: int,
    stored: Stored,
    columns: np.ndarray | None = None,
) -> np.ndarray:
    """The best step of each group.

    Args:
        x: float32 (rows, groups, group), C-contiguous, finite; a group is a multiple of 16.
        energy: float32 (groups, group), what the square of an error counts by column.
        levels: What weights in steps are rounded to.
        numerators: float32 (trials,): to what a trial stretches the extreme weight.
        turns: How often the best step is refitted.
        stored: How the steps are stored.
        columns: float64 (groups, group), where squares of errors are added by column, or None.

    Returns:
        float32 (rows, groups).
    """
    assert x.flags.c_contiguous and energy.flags.c_contiguous and x.dtype == energy.dtype == np.float32
    assert x.shape[1:] == energy.shape and x.shape[2] % 16 == 0
    if x.shape[2] % rows.STEP:  # a table looks a few columns beyond the last group
        x = np.append(x, np.zeros(rows.STEP, np.float32))[: x.size].reshape(x.shape)
    steps, weighted = np.empty(x.shape[:2], np.float32), np.empty(x.shape[2], np.float32)
    found = np.empty(x.shape[2] + rows.STEP, np.float32)
    scratch, reach = np.zeros((3, x.shape[1] + 32), np.float32), np.zeros(2, np.float32)
    reach[0] = stored.reach
    words = np.zeros(rows.WORDS // 8, np.int64)
    words[:7] = [x.ctypes.data, energy.ctypes.data, *x.shape, levels.entries.ctypes.data, len(levels.entries) // 2]
    words[7:12] = [numerators.ctypes.data, len(numerators), turns, weighted.ctypes.data, steps.ctypes.data]
    words[12:15] = [stored.bits, stored.offset, stored.turns if stored.bits else 0]
    words[15:18] = [each.ctypes.data for each in scratch]
    words[18:] = [0 if columns is None else columns.ctypes.data, reach.view(np.int64)[0], found.ctypes.data]
    kernels = {"whole": rows.search_whole, "sign": rows.search_sign, "table": rows.search_table}
    kernels[levels.kind](words.ctypes.data)
    return steps
