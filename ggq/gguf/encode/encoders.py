"""Encoders of GGUF types, one a type: rows of weights in, bytes of blocks out.

An error counts by the size of its weight too, sqrt(half the mean square of the block + square), as large weights meet
large inputs more often than not: with errors that count alike the perplexity of 2 to 4 bits is higher. Where mean
squares of inputs are known it counts less by size: four times the mean square + square.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ggq.format.gguf.types import TYPES
from ggq.gguf import block_bytes
from ggq.gguf.block_parts import FP4, Blocks
from ggq.gguf.blocks import LEVELS as IQ4
from ggq.gguf.encode.feedback import Steps, rounded
from ggq.gguf.encode.length import UPPER_SCALES, lengthen
from ggq.gguf.encode.lines import two_level_lines
from ggq.gguf.encode.steps import best_steps, one_step, stretches, two_level_steps
from ggq.gguf.encode.sums import Floats, Lanes, Levels
from ggq.quant.inputs import InputStatistics

CHUNK = 1 << 18
"""Numbers that are encoded at once: with what belongs to them they fit in a core's second-level cache."""

UNKNOWN, KNOWN = 0.5, 4.0
"""Shares of a block's mean square in what errors count: with no importance or with feedback, and with importance."""

Trials = list[tuple[float, float]]

Encoder = Callable[[Floats, Floats, bool], Blocks]
"""Blocks of weights and what errors count, float32 (blocks, numbers), and whether compiled code adds; bytes."""

Round = Callable[[Floats, Steps], Blocks]
"""Codes (blocks, numbers) of blocks of weights whose steps are float32 (blocks, groups)."""


def encoded(
    kind: int,
    rows: Floats,
    importance: Floats | None = None,
    *,
    inputs: InputStatistics | None = None,
    compiled: bool = True,
) -> NDArray[np.uint8]:
    """Rows of weights under a type.

    Args:
        kind: Number of a type in ENCODERS.
        rows: float32 (rows, columns), finite; columns are whole blocks.
        importance: float32 (columns,), what errors count by column: mean squares of inputs; None for all the same.
        inputs: With their gram: levels make up for each other's errors where the type is one of FEEDBACK.
        compiled: Whether compiled code adds; the bytes are the same.

    Returns:
        uint8 (rows, bytes of a row).
    """
    size, columns = TYPES[kind].numbers, rows.shape[1]
    blocks = np.ascontiguousarray(rows, np.float32).reshape(-1, size)
    counts = None if importance is None else _positive(importance).reshape(-1, size)
    encode = ENCODERS[kind] if inputs is None else FEEDBACK[kind](rounding=_rounding(inputs, columns))
    made, per = [], max(1, CHUNK // columns) * (columns // size)
    for start in range(0, len(blocks), per):
        part = blocks[start : start + per]
        energy = _by_size(part, UNKNOWN if counts is None or inputs is not None else KNOWN)
        if counts is not None:
            energy = (energy.reshape(-1, *counts.shape) * counts).reshape(energy.shape)
            energy /= energy.max(axis=1, keepdims=True)
        with np.errstate(over="ignore", invalid="ignore"):  # whoever decodes what is written will see
            done = encode(part, energy, compiled)
            if inputs is None and kind in UPPER_SCALES:
                lengthen(kind, part.reshape(-1, columns), counts, done)
            made.append(done)
    return np.concatenate(made).reshape(len(rows), -1)


def _rounding(inputs: InputStatistics, columns: int) -> Round:
    """Rounding with feedback of blocks that are whole rows."""

    def codes(blocks: Floats, steps: Steps) -> Blocks:
        rows = blocks.size // columns
        by_row = Steps(steps.step.reshape(rows, -1), steps.shift.reshape(rows, -1), steps.low, steps.high)
        return rounded(blocks.reshape(rows, columns), inputs, by_row).reshape(blocks.shape)

    return codes


def _by_size(blocks: Floats, share: float) -> Floats:
    """What errors count by the size of their weights and a share of the block's mean square, at most 1 and at least a
    little."""
    peak = np.abs(blocks).max(axis=1, keepdims=True)
    unit = np.square(blocks / np.where(peak > 0, peak, np.float32(1)))
    energy = np.sqrt(unit.mean(axis=1, keepdims=True) * np.float32(share) + unit)
    most = energy.max(axis=1, keepdims=True)
    return np.where(most > 0, np.maximum(energy / np.where(most > 0, most, 1), 1e-6), 1).astype(np.float32)


def _positive(importance: Floats) -> Floats:
    """Columns that no input has reached count a little: another text may reach them."""
    found = np.nan_to_num(np.asarray(importance, np.float32), nan=0, posinf=0, neginf=0)
    mean = float(found.mean())
    return np.maximum(found, np.float32(mean * 1e-4)) if mean > 0 else np.ones_like(found)


def _codes(levels: Floats, low: int) -> Blocks:
    """Whole levels as codes from 0, (blocks, numbers)."""
    return (levels - np.float32(low)).astype(np.uint8).reshape(len(levels), -1)


def _by_block(numbers: Floats, count: int, low: int = 0) -> Blocks:
    """Whole numbers by group as codes from 0, (blocks, groups)."""
    return (numbers.T[:count] - np.float32(low)).astype(np.uint8)


def _line(
    layout: Callable[..., Blocks], group: int, last: int, high: int, trials: Trials, rounding: Round | None = None
) -> Encoder:
    """A type with minimums."""
    levels = Levels(0, last)

    def encode(blocks: Floats, energy: Floats, compiled: bool) -> Blocks:
        lanes, count = Lanes(blocks, energy, group, compiled=compiled), len(blocks)
        found = two_level_lines(lanes, levels, trials, high)
        step, minimum = found.step * found.steps, found.minimum * found.minimums
        if rounding is None:
            codes = _codes(lanes.codes(levels, step, minimum), 0)
        else:
            codes = rounding(blocks, Steps(step.T[:count], minimum.T[:count], 0, last))
        wholes = _by_block(found.steps, count), _by_block(found.minimums, count)
        return layout(found.step[:count], found.minimum[:count], *wholes, codes)

    return encode


def _symmetric(
    layout: Callable[..., Blocks], bits: int, sub_bits: int, trials: int, most: float, rounding: Round | None = None
) -> Encoder:
    """A type of groups of 16 whose steps have sub-scales."""
    low, sub_low = -(1 << bits - 1), -(1 << sub_bits - 1)
    levels = Levels(low, -low - 1)
    tried = stretches(levels, trials, most)

    def encode(blocks: Floats, energy: Floats, compiled: bool) -> Blocks:
        lanes, count = Lanes(blocks, energy, 16, compiled=compiled), len(blocks)
        upper, lower = two_level_steps(lanes, levels, tried, sub_low, -sub_low - 1)
        step = upper * lower
        if rounding is None:
            codes = _codes(lanes.codes(levels, step), low)
        else:
            codes = rounding(blocks, Steps(step.T[:count], np.zeros_like(step.T[:count]), low, -low - 1))
        return layout(upper[:count], _by_block(lower, count, sub_low), codes)

    return encode


_TABLE = Levels(table=IQ4)


def _iq4_xs(blocks: Floats, energy: Floats, compiled: bool) -> Blocks:
    lanes, count = Lanes(blocks, energy, 32, compiled=compiled), len(blocks)
    upper, lower = two_level_steps(lanes, _TABLE, stretches(_TABLE, 8, 1.25), -32, 31)
    codes = np.searchsorted(IQ4, lanes.codes(_TABLE, upper * lower)).astype(np.uint8)
    return block_bytes.iq4_xs(upper[:count], _by_block(lower, count, -32), codes.reshape(count, -1))


def _iq4_nl(blocks: Floats, energy: Floats, compiled: bool) -> Blocks:
    lanes, count = Lanes(blocks, energy, 32, compiled=compiled), len(blocks)
    step = one_step(lanes, _TABLE, stretches(_TABLE, 8, 1.25))
    codes = np.searchsorted(IQ4, lanes.codes(_TABLE, step)).astype(np.uint8)
    return block_bytes.iq4_nl(step[0, :count], codes.reshape(count, -1))


def _ternary(layout: Callable[..., Blocks]) -> Encoder:
    levels = Levels(-1, 1)

    def encode(blocks: Floats, energy: Floats, compiled: bool) -> Blocks:
        lanes, count = Lanes(blocks, energy, 256, compiled=compiled), len(blocks)
        step = np.abs(one_step(lanes, levels, [float(each) for each in np.geomspace(0.9, 4, 16)]))
        return layout(step[0, :count], _codes(lanes.codes(levels, step), -1))

    return encode


_HALVES = np.unique(FP4)
"""Twice the numbers of E2M1, ascending; zero once."""

_E2M1 = np.array([np.flatnonzero(FP4 == each)[0] for each in _HALVES], np.uint8)


def _mxfp4(blocks: Floats, energy: Floats, compiled: bool) -> Blocks:
    """The power of two of least error, of the three about the best step."""
    lanes, levels, count = Lanes(blocks, energy, 32, compiled=compiled), Levels(table=_HALVES), len(blocks)
    wished = np.abs(best_steps(lanes, levels, stretches(levels, 8, 1.5))[0])
    exponent = np.rint(np.log2(np.where(wished > 0, wished, 1)))
    kept, least = exponent, np.full(exponent.shape, np.inf, np.float32)
    for move in (0, -1, 1):
        tried = np.clip(exponent + move, -126, 126).astype(np.float32)
        error = lanes.error(levels, np.exp2(tried))
        kept, least = np.where(error < least, tried, kept), np.minimum(error, least)
    kept = np.where(wished > 0, kept, np.float32(-126))
    codes = _E2M1[np.searchsorted(_HALVES, lanes.codes(levels, np.exp2(kept)))]
    stored = (kept[0, :count] + 128).astype(np.uint8)  # of the whole numbers, not of their halves
    return block_bytes.mxfp4(stored, codes.reshape(count, -1))


def _spreads(last: int, cuts: tuple[float, ...], spreads: NDArray[np.float64]) -> Trials:
    return [(float(last + spread), cut) for spread in spreads for cut in cuts]


FEEDBACK: dict[int, Callable[..., Encoder]] = {
    10: partial(_line, block_bytes.q2_k, 16, 3, 15, _spreads(3, (0, 0.08), np.arange(-1, 1.2, 0.3))),
    11: partial(_symmetric, block_bytes.q3_k, 3, 6, 8, 1.6),
    12: partial(_line, block_bytes.q4_k, 32, 15, 63, _spreads(15, (0, 0.02, 0.05), np.arange(-2, 2.25, 0.25))),
    13: partial(_line, block_bytes.q5_k, 32, 31, 63, _spreads(31, (0, 0.01), np.arange(-1, 1.5, 0.25))),
    14: partial(_symmetric, block_bytes.q6_k, 6, 8, 8, 1.1),
}
"""What makes the encoder of a type, by type; it takes how codes are rounded, None for to the nearest level."""

ENCODERS: dict[int, Encoder] = {
    **{kind: make() for kind, make in FEEDBACK.items()},
    20: _iq4_nl,
    23: _iq4_xs,
    34: _ternary(block_bytes.tq1_0),
    35: _ternary(block_bytes.tq2_0),
    39: _mxfp4,
}
"""What encodes, by type; the other types are encoded by the methods of the schemes that express them."""
