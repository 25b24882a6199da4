"""Blocks whose numbers are points of a grid (the IQ types), and floats of eight bits as scales, as float32.

Each function takes blocks, uint8 (rows, blocks, bytes of a block), and computes in the order that ggml does, so that
its numbers are ggml's bit for bit.

Source: the layouts of ggml-common.h (llama.cpp, MIT).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ggq.gguf.block_parts import FP4, Blocks, Floats, bits, f16_of, nibbles, pairs, words
from ggq.gguf.grids import PACKED

SIGNS = np.array([n | (n.bit_count() & 1) << 7 for n in range(128)], np.uint8)
"""The signs of eight numbers by seven bits: the eighth makes the count of minus signs even."""

IQ1_DELTA = np.float32(0.125)


@cache
def grid(name: str) -> Floats:
    """The points of a type's grid, float32 (points, coordinates)."""
    packed = PACKED[name]
    flat = np.unpackbits(np.frombuffer(base64.b85decode(packed.points), np.uint8), bitorder="little")
    numbers = flat.reshape(-1, packed.bits) @ (1 << np.arange(packed.bits))
    return np.array(packed.levels, np.float32)[numbers].reshape(-1, packed.width)


def _scale(b: Blocks, at: int) -> Floats:
    """A block's f16 as float32, (rows, blocks, 1)."""
    return f16_of(b, at).astype(np.float32)[..., None]


def _points(name: str, numbers: NDArray[np.integer], steps: Floats, signs: Blocks | None = None) -> Floats:
    """Points times their steps: each step belongs to as many neighbouring points as there are more of these."""
    points = grid(name)[numbers]
    rows, blocks, count, width = points.shape
    found = steps[..., None] * points.reshape(rows, blocks, steps.shape[-1], -1)
    if signs is not None:
        found = found * np.where(signs, np.float32(-1), np.float32(1)).reshape(found.shape)
    return np.asarray(found, np.float32).reshape(rows, blocks * count * width)


def _sevens(packed: NDArray[np.uint32]) -> Blocks:
    """The signs of 32 numbers from four times seven bits of a word."""
    numbers = packed[..., None] >> np.array([0, 7, 14, 21], np.uint32) & 127
    return bits(SIGNS[numbers].reshape(*packed.shape[:2], -1))


def _fourths(scale: Floats, nibble: NDArray[np.integer], factor: float) -> Floats:
    return scale * (np.float32(0.5) + nibble.astype(np.float32)) * np.float32(factor)


def _iq2_xxs(b: Blocks) -> Floats:
    """Of eight bytes for 32 numbers four are points, and a word has four times seven signs and four bits of scale."""
    pairs_of_words = words(b[..., 2:], "<u4").reshape(*b.shape[:2], 8, 2)
    last = pairs_of_words[..., 1]
    numbers = b[..., 2:].reshape(*b.shape[:2], 8, 8)[..., :4].reshape(*b.shape[:2], 32)
    return _points("IQ2_XXS", numbers, _fourths(_scale(b, 0), last >> 28, 0.25), _sevens(last))


def _iq2_xs(b: Blocks) -> Floats:
    found = words(b[..., 2:66], "<u2")
    steps = _fourths(_scale(b, 0), pairs(b[..., 66:]), 0.25)
    return _points("IQ2_XS", found & 511, steps, bits(SIGNS[found >> 9]))


def _iq2_s(b: Blocks) -> Floats:
    high = (b[..., 66:74, None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3).reshape(*b.shape[:2], 32)
    numbers = b[..., 2:34] | high.astype(np.uint16) << 8
    steps = _fourths(_scale(b, 0), pairs(b[..., 74:]), 0.25)
    return _points("IQ2_S", numbers, steps, bits(b[..., 34:66]))


def _iq3_xxs(b: Blocks) -> Floats:
    last = words(b[..., 66:], "<u4")
    return _points("IQ3_XXS", b[..., 2:66], _fourths(_scale(b, 0), last >> 28, 0.5), _sevens(last))


def _iq3_s(b: Blocks) -> Floats:
    numbers = b[..., 2:66] | bits(b[..., 66:74]).astype(np.uint16) << 8
    steps = _scale(b, 0) * (1 + 2 * pairs(b[..., 106:])).astype(np.float32)
    return _points("IQ3_S", numbers, steps, bits(b[..., 74:106]))


def _shifted_points(numbers: NDArray[np.integer], steps: Floats, minus: NDArray[np.bool_]) -> Floats:
    """Points of IQ1_S, all coordinates moved by an eighth up or down, times their steps."""
    points = grid("IQ1_S")[numbers]
    rows, blocks = points.shape[:2]
    moved = points + np.where(minus, -IQ1_DELTA, IQ1_DELTA)[..., None]
    found = steps[..., None] * moved.reshape(rows, blocks, steps.shape[-1], -1)
    return np.asarray(found, np.float32).reshape(rows, -1)


def _iq1_s(b: Blocks) -> Floats:
    """A 16-bit number for 32 numbers: three more bits of four points, three bits of scale, and the move's sign."""
    last = words(b[..., 34:], "<u2")
    high = (last[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(*b.shape[:2], 32)
    steps = _scale(b, 0) * (2 * (last >> 12 & 7) + 1).astype(np.float32)
    minus = np.repeat(last & 0x8000 != 0, 4, axis=-1)
    return _shifted_points(b[..., 2:34] | high << 8, steps, minus)


def _iq1_m(b: Blocks) -> Floats:
    """The f16 lies in the upper four bits of four numbers, whose lower twelve have four scales each."""
    last = words(b[..., 48:], "<u2")
    parts = (last & 0xF000) >> np.array([12, 8, 4, 0], np.uint16)
    whole = np.bitwise_or.reduce(parts, axis=-1).astype("<u2").view("<f2").astype(np.float32)[..., None]
    scales = (last[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(*b.shape[:2], 16)
    high = pairs(b[..., 32:48])
    numbers = b[..., :32] | (high & 7).astype(np.uint16) << 8
    return _shifted_points(numbers, whole * (2 * scales + 1).astype(np.float32), high & 8 != 0)


def _nvfp4(b: Blocks) -> Floats:
    """Scales of 16 numbers as floats of four bits of exponent and three of mantissa; FP4 counts halves."""
    exponent, mantissa = (b[..., :4] >> 3 & 15).astype(np.int32), (b[..., :4] & 7).astype(np.float32)
    small, usual = np.ldexp(mantissa, -10), np.ldexp(1 + mantissa / 8, exponent - 8)
    steps = np.where(exponent == 0, small, usual)
    steps = np.where((b[..., :4] == 0) | (b[..., :4] == 127), np.float32(0), steps).astype(np.float32)
    levels = FP4[nibbles(b[..., 4:].reshape(*b.shape[:2], 4, 8))]
    return np.asarray(steps[..., None] * levels, np.float32).reshape(len(b), -1)


GRID_FLOATS: dict[int, Callable[[Blocks], Floats]] = {
    16: _iq2_xxs,
    17: _iq2_xs,
    18: _iq3_xxs,
    19: _iq1_s,
    21: _iq3_s,
    22: _iq2_s,
    29: _iq1_m,
    40: _nvfp4,
}
"""Types that are decoded here."""
