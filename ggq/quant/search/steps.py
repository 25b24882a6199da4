"""The search for steps: under which grid do the nearest codes of a group have the least weighted squared error?

For codes chosen by a trial step, the best step is a least-squares fit and its error a closed form, so a trial costs one
rounding and two sums. The best trial is then refined by turns: nearest codes, best step, nearest codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Geometry, Scheme
from ggq.quant.grid import Grid, extremes, fit_grid
from ggq.quant.matrix import geometry, largest_code
from ggq.quant.reference import by_groups, level_table
from ggq.quant.search import quick

Floats = NDArray[np.float32]
Rounding = Callable[[Floats], Floats]

CHUNK_WEIGHTS = 1 << 17
"""Weights that are searched at once: with what belongs to them they fit in a core's second-level cache."""

BLOCK_CHUNK_WEIGHTS = 1 << 20
"""The same with products of columns: BLAS wants larger matrices."""

SMALL_PRODUCT = 1 << 18
"""Multiplications up to which OpenBLAS does not call its other threads. These products come by the thousand, and while
another program takes a core, each call would wait for a thread that is not running: 20 times as long."""

TRIALS = 12
"""Trial steps between those of REACH."""

REACH = {1: (1.0, 1.0), 2: (0.9, 2.4), 3: (0.85, 1.6), 4: (0.85, 1.35), 5: (0.9, 1.2), 6: (0.95, 1.1), 8: (0.99, 1.02)}
"""How far a trial stretches a group over its codes, by bits: under 1 the last codes are not used, over 1 weights are
clipped. Ternary codes have three levels for 2 bits and are stretched further."""

REACH_TERNARY = (0.9, 4.0)

LARGEST_BLOCK = 256
"""Groups up to this size have a metric with products of columns, which costs that many operations a weight."""

CUTS = (0.0, 0.5, 1.0)
"""Share of what a trial cuts off that is cut off at the lower end, where there is a lower end to choose."""

TURNS = 2
"""Times that codes and steps are refitted to each other."""

TURNS_TWO_LEVEL = 3
"""The same for two-level scales, where rounding a step moves it further."""

FEW_BLOCKS = 8
"""Blocks of LANES columns in a group up to which they are added one after the other."""

LANES = 16
"""Sums of a group run over so many columns side by side, so that compiled code can add in the same order."""


def best_grid(
    weights: Floats,
    scheme: Scheme,
    metric: Metric | None = None,
    codebook: NDArray[np.int8] | None = None,
    *,
    compiled: bool = False,
) -> Grid:
    """The grid whose nearest codes have about the least squared error.

    Args:
        weights: float32 (rows, columns), finite.
        scheme: A scheme of codes without transforms.
        metric: How errors count, of all groups of a row; None for all columns the same.
        codebook: int8 (2**bits,), only with kind "codebook".
        compiled: Whether compiled code does what it can do; it finds the same grid.

    Returns:
        The grid of all rows.
    """
    sizes = geometry(scheme, weights.shape)
    shape, extra = (sizes.rows, sizes.groups), scheme.zero in ("code", "minimum")
    steps, shifts = np.empty(shape, np.float32), np.empty(shape, np.float32) if extra else None
    metric = metric or diagonal_metric(None, sizes)
    chunk = CHUNK_WEIGHTS if metric.blocks is None else BLOCK_CHUNK_WEIGHTS
    count = max(1, chunk // sizes.padded_columns)
    for start in range(0, sizes.rows, count):
        rows = slice(start, min(start + count, sizes.rows))
        steps[rows], found = search_rows(by_groups(weights[rows], scheme), metric, scheme, codebook, compiled=compiled)
        if shifts is not None and found is not None:
            shifts[rows] = found
    return wished_grid(steps, shifts, scheme, codebook)


def wished_grid(steps: Floats, shifts: Floats | None, scheme: Scheme, codebook: NDArray[np.int8] | None = None) -> Grid:
    """What the scheme can store of wished steps, with zero-points (scheme "code") or minimums (scheme "minimum")."""
    if scheme.zero == "code":
        return fit_grid(steps, scheme, zero=shifts)
    if scheme.zero == "minimum":
        return fit_grid(steps, scheme, minimum=shifts)
    return fit_grid(steps, scheme, codebook=codebook)


def search_rows(
    x: Floats,
    metric: Metric,
    scheme: Scheme,
    codebook: NDArray[np.int8] | None = None,
    *,
    compiled: bool = False,
) -> tuple[Floats, Floats | None]:
    """Wished steps, and zero-points or minimums, of some rows.

    Args:
        x: float32 (rows, groups, group).
        metric: How errors count.
        scheme: A scheme of codes.
        codebook, compiled: As in `best_grid`.
    """
    compiled = compiled and metric.blocks is None
    if compiled and quick.able(scheme, codebook):
        return quick_steps(x, metric, scheme, codebook), None
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if scheme.zero == "minimum":
            found: tuple[Floats, Floats | None] = _with_minimum(x, metric, scheme, compiled)
        elif scheme.zero == "code":
            found = _with_zero_point(x, metric, scheme, compiled)
        else:
            found = _symmetric(x, metric, scheme, codebook), None
        if not scheme.subscale:
            return found
        if scheme.zero == "none":
            return _stored_steps(x, metric, scheme, codebook, found[0]), None
        return _stored_best(x, metric, scheme, *found)


def quick_steps(
    x: Floats,
    metric: Metric,
    scheme: Scheme,
    codebook: NDArray[np.int8] | None,
    squares: NDArray[np.float64] | None = None,
) -> Floats:
    """Steps as `search_rows` finds them, by compiled code.

    Args:
        x, metric, scheme, codebook: As there; what `quick.able` accepts, under a metric by column.
        squares: See `quick.search`.
    """
    turns = TURNS, TURNS_TWO_LEVEL + 1
    return quick.search(x, metric.energy, scheme, codebook, numerators(scheme, codebook), turns, squares)


def numerators(scheme: Scheme, codebook: NDArray[np.int8] | None = None) -> Floats:
    """What trials stretch the extreme weight of a group to, in steps, where there are no shifts."""
    table = level_table(scheme, codebook)[: scheme.codes]
    ends = {float(table.min()), float(table.max())} if table.min() != -table.max() else {float(table.max())}
    return np.array([end * stretch for end in sorted(ends) for stretch in trials(scheme)], np.float32)


def trials(scheme: Scheme) -> list[float]:
    """How far each trial stretches a group over its codes."""
    low, high = REACH_TERNARY if scheme.kind == "ternary" else REACH[scheme.bits]
    return [1.0] if low == high else [1.0, *(float(each) for each in np.geomspace(low, high, TRIALS))]


def rounding(scheme: Scheme, codebook: NDArray[np.int8] | None = None) -> Rounding:
    """What rounds weights in steps to levels in steps, in place, under a scheme without shifts."""
    table = level_table(scheme, codebook)[: scheme.codes]
    low, high = np.float32(table.min()), np.float32(table.max())
    if scheme.kind == "binary":
        return lambda t: np.where(t >= 0, high, low)
    if scheme.kind != "codebook":
        return lambda t: np.clip(np.rint(t, out=t), low, high, out=t)
    # Entries are whole numbers, so a weight's halves, rounded up, tell which is nearest: of two as near, the smaller.
    entries, first = np.unique(table), 2 * low
    marks = entries[1:] + entries[:-1]
    nearest = entries[np.searchsorted(marks, np.arange(first, 2 * high + 1))]

    def round_to_entries(t: Floats) -> Floats:
        t *= 2
        np.ceil(t, out=t)
        t -= first
        np.clip(t, 0, len(nearest) - 1, out=t)
        return nearest.take(t.astype(np.int16))

    return round_to_entries


def _symmetric(x: Floats, metric: Metric, scheme: Scheme, codebook: NDArray[np.int8] | None) -> Floats:
    """Steps where there is nothing else: the trial with the largest (sum h x q)**2 / sum h q**2."""
    rounded = rounding(scheme, codebook)
    extreme, hx = extremes(x), metric(x)
    best, step = np.zeros_like(extreme), np.zeros_like(extreme)
    for numerator in numerators(scheme, codebook):
        inverse = np.where(extreme == 0, np.float32(0), numerator / extreme)
        score, fitted = _score(hx, metric, rounded(x * inverse[:, :, None]))
        better = score > best
        best, step = np.where(better, score, best), np.where(better, fitted, step)
    for _ in range(TURNS):
        inverse = np.where(step == 0, np.float32(0), 1 / step)
        score, fitted = _score(hx, metric, rounded(x * inverse[:, :, None]))
        better = score > best
        best, step = np.where(better, score, best), np.where(better, fitted, step)
    return step


def _score(hx: Floats, metric: Metric, levels: Floats) -> tuple[Floats, Floats]:
    """What levels q under their best step take off the error, (sum h x q)**2 / sum h q**2, and that step."""
    product, square = metric.dot(hx, levels), metric.dot(metric(levels), levels)
    fitted = np.where(square > 0, product / square, np.float32(0))
    return fitted * product, fitted


def lane_sums(terms: Floats) -> Floats:
    """Sums of float32 along the last axis, a multiple of LANES, always in the same order."""
    blocks = terms.reshape(-1, terms.shape[-1] // LANES, LANES)
    if blocks.shape[1] > FEW_BLOCKS:
        lanes: Floats = np.add.reduce(blocks, axis=1)
    else:  # the same, with less for NumPy to set up
        lanes = blocks[:, 0]
        for block in range(1, blocks.shape[1]):
            lanes = lanes + blocks[:, block]
    lanes = np.ascontiguousarray(lanes.T)
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return lanes[0].reshape(terms.shape[:-1])


def _with_zero_point(x: Floats, metric: Metric, scheme: Scheme, compiled: bool) -> tuple[Floats, Floats]:
    """Steps and whole zero-points."""
    levels = np.float32(largest_code(scheme))
    # Over how many steps the range is spread, and how many of these are cut off.
    tried = [(levels * np.float32(stretch), levels * np.float32(max(stretch - 1, 0))) for stretch in trials(scheme)]
    if compiled:
        return quick.search_shifts(x, metric.energy, metric.total, scheme, np.array(tried, np.float32), TURNS)
    high, low = x.max(axis=2, initial=0), x.min(axis=2, initial=0)
    span, hx = high - low, metric(x)
    best, step, zero = np.zeros_like(high), np.zeros_like(high), np.zeros_like(high)

    def levels_of(inverse: Floats, offset: Floats) -> Floats:
        t = x * inverse[:, :, None]
        np.rint(t, out=t)
        return np.clip(t, -offset[:, :, None], (levels - offset)[:, :, None], out=t)

    for spread, cut in tried:
        inverse = np.where(span == 0, np.float32(0), spread / span)
        middle = np.floor(-low * inverse - cut / 2)
        ends = [np.rint(-low * inverse), np.rint(-low * inverse - cut)] if cut > 0 else []
        for offset in (middle, middle + 1, *ends):
            offset = np.clip(offset, 0, levels)
            score, fitted = _score(hx, metric, levels_of(inverse, offset))
            better = score > best
            best, step = np.where(better, score, best), np.where(better, fitted, step)
            zero = np.where(better, offset, zero)
    for _ in range(TURNS):
        inverse = np.where(step == 0, np.float32(0), 1 / step)
        score, fitted = _score(hx, metric, levels_of(inverse, zero))
        better = score > best
        best, step = np.where(better, score, best), np.where(better, fitted, step)
    return step, zero


class Metric:
    """How errors of a group's columns count: by column, or with the products of columns within the group.

    Args:
        energy: float32 (groups, group), what the square of an error counts by column.
        blocks: float32 (groups, group, group), symmetric and positive semidefinite, instead; or None.
    """

    def __init__(self, energy: Floats, blocks: Floats | None = None) -> None:
        self.energy, self.blocks = energy, blocks

    @cached_property
    def total(self) -> Floats:
        """(groups,): what an error of 1 in every column counts."""
        found: Floats = self.energy.sum(axis=1) if self.blocks is None else self.blocks.sum(axis=(1, 2))
        return found

    def __call__(self, x: Floats) -> Floats:
        """(rows, groups, group) times the metric: the inner product with another y is then (metric(x) * y).sum()."""
        if self.blocks is None:
            return x * self.energy
        out = np.empty_like(x)
        rows, groups, group = x.shape
        step = max(1, SMALL_PRODUCT // group**2)
        whole = rows // step * step
        for part in (slice(0, whole), slice(whole, rows)):
            if part.start < part.stop:
                some, there = (
                    each[part].reshape(-1, min(step, part.stop - part.start), groups, group) for each in (x, out)
                )
                np.matmul(some.transpose(2, 0, 1, 3), self.blocks[:, None], out=there.transpose(2, 0, 1, 3))
        return out

    def dot(self, x: Floats, y: Floats) -> Floats:
        """Sums of x * y over each group, (rows, groups); by column always in the same order."""
        if self.blocks is None:
            return lane_sums(x * y)
        found: Floats = np.einsum("rgc,rgc->rg", x, y)
        return found

    def part(self, groups: slice) -> Metric:
        """The metric of some groups."""
        return Metric(self.energy[groups], None if self.blocks is None else self.blocks[groups])


IDLE_SHARE = 1e-2
"""What an error in a column without inputs counts, as a share of the mean column: a group of such columns alone is
rounded by its weights, and next to others they hardly matter. GPTQ's damping is as much."""


def diagonal_metric(importance: Floats | None, sizes: Geometry) -> Metric:
    """Errors count by column, 1 on average over the columns and 0 in padding; IDLE_SHARE where importance is 0."""
    found = np.zeros(sizes.padded_columns, np.float32)
    if importance is None:
        found[: sizes.columns] = 1
    else:
        share = importance / importance.mean(dtype=np.float64)
        found[: sizes.columns] = np.where(importance == 0, IDLE_SHARE, share)
    return Metric(found.reshape(sizes.groups, sizes.group))


def block_metric(gram: Floats, sizes: Geometry) -> Metric:
    """Errors count by what they do to the product with inputs of this gram, each group on its own."""
    diagonal = diagonal_metric(gram.diagonal(), sizes)
    if sizes.group > LARGEST_BLOCK:
        return diagonal
    blocks = np.zeros((sizes.groups, sizes.group, sizes.group), np.float32)
    mean = np.float32(gram.diagonal().mean(dtype=np.float64))
    for group, block in enumerate(blocks):
        part = gram[group * sizes.group : (group + 1) * sizes.group, group * sizes.group : (group + 1) * sizes.group]
        block[: len(part), : len(part)] = part / mean
        idle = np.flatnonzero(part.diagonal() == 0)
        block[idle, idle] = IDLE_SHARE
    return Metric(diagonal.energy, blocks)


@dataclass(frozen=True)
class _Line:
    """Weighted least squares of x against s * q + t: the fit for given levels, and what it takes off the error."""

    hx: Floats
    metric: Metric
    total: Floats
    total_x: Floats
    below: bool

    def fit(self, q: Floats) -> tuple[Floats, Floats, Floats]:
        """Step, minimum (-t) and score; with `below` the minimum is not negative."""
        hq = self.metric(q)
        sq, sqq, sxq = lane_sums(hq), self.metric.dot(hq, q), self.metric.dot(self.hx, q)
        determinant = self.total * sqq - sq * sq
        sound = determinant > 1e-6 * self.total * sqq
        step = np.where(sound, (self.total * sxq - self.total_x * sq) / determinant, 0)
        shift = np.where(sound, (sqq * self.total_x - sq * sxq) / determinant, self.total_x / self.total)
        if self.below:
            raised = (shift > 0) | (step < 0)
            step = np.where(raised, np.where(sqq > 0, np.maximum(sxq / sqq, 0), 0), step)
            shift = np.where(raised, 0, shift)
        score = np.where(self.total > 0, step * sxq + shift * self.total_x, 0)
        # Off the optimum (a clamped shift) the same expression still holds: there step is the optimum of its own.
        return step.astype(np.float32), np.where(self.total > 0, -shift, 0).astype(np.float32), score

    def minimum(self, q: Floats, step: Floats) -> Floats:
        """The best minimum when the step is given."""
        shift = (self.total_x - step * lane_sums(self.metric(q))) / self.total
        found = np.where(self.total > 0, -shift, 0)
        return (np.maximum(found, 0) if self.below else found).astype(np.float32)


def _line(x: Floats, metric: Metric, scheme: Scheme) -> _Line:
    hx = metric(x)
    total = np.broadcast_to(metric.total, x.shape[:2])
    return _Line(hx, metric, total, lane_sums(hx), scheme.subscale > 0)


def _counted(x: Floats, metric: Metric) -> Floats:
    """Weights whose errors do not count, as those of padding, replaced by the first of their group whose do: so they
    do not widen its range."""
    counts = metric.energy > 0
    if counts.all():
        return x
    first = np.take_along_axis(x, counts.argmax(axis=1)[None, :, None], axis=2)
    return np.where(counts, x, first)


def _codes(x: Floats, step: Floats, minimum: Floats, levels: np.float32) -> Floats:
    """Nearest codes as float32 under a step and a minimum."""
    t = x + minimum[:, :, None]
    t *= np.where(step == 0, np.float32(0), 1 / step)[:, :, None]
    np.rint(t, out=t)
    return np.clip(t, 0, levels, out=t)


def _with_minimum(x: Floats, metric: Metric, scheme: Scheme, compiled: bool) -> tuple[Floats, Floats]:
    """Steps and float minimums."""
    x = _counted(x, metric)
    tried = [(stretch, cut) for stretch in trials(scheme) for cut in (CUTS if stretch > 1 else (0.5,))]
    if compiled:
        return quick.search_shifts(x, metric.energy, metric.total, scheme, np.array(tried, np.float32), TURNS)
    levels, line = np.float32(largest_code(scheme)), _line(x, metric, scheme)
    high, low = x.max(axis=2), x.min(axis=2)
    if line.below:
        low = np.minimum(low, 0)
    best = np.full_like(high, -np.inf)
    step, minimum = np.zeros_like(high), np.zeros_like(high)
    for stretch, cut in tried:
        span = (high - low) / np.float32(stretch)
        start = -low - ((high - low) - span) * np.float32(cut)
        trial, offset, score = line.fit(_codes(x, span / levels, np.maximum(start, 0) if line.below else start, levels))
        better = score > best
        best = np.where(better, score, best)
        step, minimum = np.where(better, trial, step), np.where(better, offset, minimum)
    for _ in range(TURNS):
        trial, offset, score = line.fit(_codes(x, step, minimum, levels))
        better = score > best
        best = np.where(better, score, best)
        step, minimum = np.where(better, trial, step), np.where(better, offset, minimum)
    return step, minimum


def _stored_steps(
    x: Floats, metric: Metric, scheme: Scheme, codebook: NDArray[np.int8] | None, steps: Floats
) -> Floats:
    """Refit what two-level scales can store: codes on the stored grid, best steps for them, stored again.

    Of all turns each row keeps the one with the least error, that of the stored grid.
    """
    hx = metric(x)
    best, kept = np.full(len(x), np.inf), steps.copy()
    for turn in range(TURNS_TWO_LEVEL + 1):
        grid = fit_grid(steps, scheme, codebook=codebook)
        codes = grid.nearest(x.reshape(len(x), -1))
        levels, difference = grid.table[codes].reshape(x.shape), grid.values(codes).reshape(x.shape) - x
        error = _row_sums(metric.dot(metric(difference), difference))
        better = error < best
        best = np.where(better, error, best)
        kept[better] = steps[better]
        if turn == TURNS_TWO_LEVEL:
            break
        steps = _score(hx, metric, levels)[1]
    return kept


def _row_sums(errors: Floats) -> NDArray[np.float64]:
    """Sums of each row's groups, from the first to the last."""
    return np.cumsum(errors, axis=1, dtype=np.float64)[:, -1]


def _stored_best(
    x: Floats, metric: Metric, scheme: Scheme, steps: Floats, shifts: Floats | None
) -> tuple[Floats, Floats | None]:
    """The same with zero-points or minimums."""
    flat, line = x.reshape(len(x), -1), _line(x, metric, scheme)
    assert shifts is not None
    best, kept, kept_shifts = np.full(len(x), np.inf), steps.copy(), shifts.copy()
    for turn in range(TURNS_TWO_LEVEL + 1):
        grid = wished_grid(steps, shifts, scheme)
        codes = grid.nearest(flat)
        if scheme.zero == "minimum":
            shifts = line.minimum(codes.reshape(x.shape).astype(np.float32), grid.step)
            grid = wished_grid(steps, shifts, scheme)
            codes = grid.nearest(flat)
        difference = grid.values(codes).reshape(x.shape) - x
        error = _row_sums(metric.dot(metric(difference), difference))
        better = error < best
        best = np.where(better, error, best)
        kept[better], kept_shifts[better] = steps[better], shifts[better]
        if turn == TURNS_TWO_LEVEL:
            break
        levels = grid.table[codes].reshape(x.shape)
        if scheme.zero == "minimum":
            steps, shifts, _ = line.fit(levels)
        else:
            steps = _score(line.hx, metric, levels - shifts[:, :, None])[1]
    return kept, kept_shifts
