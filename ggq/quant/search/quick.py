"""The search by compiled code: the same numbers as in `ggq.quant.search.steps`, a good deal faster.

Loading compiled code takes a moment, so who has little to search does without.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.matrix import largest_code, subscale_offset
from ggq.quant.reference import level_table

Floats = NDArray[np.float32]


def able(scheme: Scheme, codebook: NDArray[np.int8] | None) -> bool:
    """Whether compiled code knows the scheme: codes without zero-points and minimums, tables in ascending order."""
    return scheme.zero == "none" and (codebook is None or bool((np.diff(codebook.astype(np.int16)) > 0).all()))


def search(
    x: Floats,
    energy: Floats,
    scheme: Scheme,
    codebook: NDArray[np.int8] | None,
    numerators: Floats,
    turns: tuple[int, int],
    squares: NDArray[np.float64] | None = None,
) -> Floats:
    """The best step of each group.

    Args:
        x: float32 (rows, groups, group).
        energy: float32 (groups, group), what the square of an error counts by column.
        scheme, codebook: Ones that `able` accepts.
        numerators: float32 (trials,): to what a trial stretches the extreme weight of a group.
        turns: How often the best step is refitted, and how often two-level scales are stored and refitted.
        squares: float64 (groups, group), to which the squares of the errors under the stored steps are added by
            column, row after row; or None.

    Returns:
        float32 (rows, groups).
    """
    from ggq_kernels.quantize.search import Stored
    from ggq_kernels.quantize.search import search as search_rows

    reach = float(np.abs(level_table(scheme, codebook)).max())
    stored = Stored(scheme.subscale, subscale_offset(scheme), reach, turns[1])
    found: Floats = search_rows(x, energy, _levels(scheme, codebook), numerators, turns[0], stored, squares)
    return found


def search_shifts(
    x: Floats, energy: Floats, totals: Floats, scheme: Scheme, trials: Floats, turns: int
) -> tuple[Floats, Floats]:
    """The best step of each group, and its zero-point or minimum.

    Args:
        x, energy: As for `search`.
        totals: float32 (groups,), the sums of energy.
        scheme: One with zero-points or minimums.
        trials: float32 (trials, 2); see `ggq_kernels.quantize.shift.search`.
        turns: How often the best is refitted.

    Returns:
        float32 (rows, groups) each.
    """
    from ggq_kernels.quantize.shift import search as search_rows

    minimum, below = scheme.zero == "minimum", scheme.subscale > 0
    last = largest_code(scheme)
    found: tuple[Floats, Floats]
    found = search_rows(x, energy, totals, trials, turns, last, minimum=minimum, below=below)
    return found


def _levels(scheme: Scheme, codebook: NDArray[np.int8] | None) -> Any:
    """What weights in steps are rounded to, as the kernels have it."""
    from ggq_kernels.quantize.search import sign_levels, table_levels, whole_levels

    if codebook is not None:
        return table_levels(codebook)
    table = level_table(scheme)[: scheme.codes]
    return (sign_levels if scheme.kind == "binary" else whole_levels)(float(table[0]), float(table[-1]))
