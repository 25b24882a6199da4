"""Blocks whose numbers are points of a grid (the IQ types), and floats of eight bits as scales, as float32.

Each function takes blocks, uint8 (rows, blocks, bytes of a block), and computes in the order that ggml does, so that
its numbers are ggml's bit for bit.

Source: the layouts of ggml-common.h (llama.cpp, MIT).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggq.gguf.block_parts import FP4, Blocks, Floats, bits, f16_of, nibbles, pairs, words
from ggq.gguf.grids import PACKED

SIGNS = np.array([n | (n.bit_count() & 1) << 7 for n in range(128)], np.uint8)
"""The signs of eight numbers by seven bits: the eighth makes the count of minus signs even."""

IQ1_DELTA = np.float32(0.125)


@cache
def places(name: str) -> NDArray[np.uint8]:
    """The points of a type's grid, uint8 (points, coordinates): which of the grid's levels each coordinate is."""
    packed = PACKED[name]
    flat = np.unpackbits(np.frombuffer(base64.b85decode(packed.points), np.uint8), bitorder="little")
    numbers = flat.reshape(-1, packed.bits) @ (1 << np.arange(packed.bits, dtype=np.uint8))
    return numbers.astype(np.uint8).reshape(-1, packed.width)


@cache
def grid(name: str) -> Floats:
    """The points of a type's grid, float32 (points, coordinates)."""
    return np.array(PACKED[name].levels, np.float32)[places(name)]


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


class Parts(NamedTuple):
    """What a block of points with signs is made of.

    Args:
        grid: Name of the grid.
        numbers: Of points, (rows, blocks, points of a block).
        scales: Whole numbers, (rows, blocks, groups): n stands for (2 n + 1) steps.
        signs: Of 256 numbers, 1 for minus, (rows, blocks, 256).
        halvings: How often the f16 of a block is halved to make its step.
    """

    grid: str
    numbers: NDArray[np.integer]
    scales: NDArray[np.integer]
    signs: Blocks
    halvings: int


def _iq2_xxs(b: Blocks) -> Parts:
    """Of eight bytes for 32 numbers four are points, and a word has four times seven signs and four bits of scale."""
    pairs_of_words = words(b[..., 2:], "<u4").reshape(*b.shape[:2], 8, 2)
    last = pairs_of_words[..., 1]
    numbers = b[..., 2:].reshape(*b.shape[:2], 8, 8)[..., :4].reshape(*b.shape[:2], 32)
    return Parts("IQ2_XXS", numbers, last >> 28, _sevens(last), 3)


def _iq2_xs(b: Blocks) -> Parts:
    found = words(b[..., 2:66], "<u2")
    return Parts("IQ2_XS", found & 511, pairs(b[..., 66:]), bits(SIGNS[found >> 9]), 3)


def _iq2_s(b: Blocks) -> Parts:
    high = (b[..., 66:74, None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3).reshape(*b.shape[:2], 32)
    numbers = b[..., 2:34] | high.astype(np.uint16) << 8
    return Parts("IQ2_S", numbers, pairs(b[..., 74:]), bits(b[..., 34:66]), 3)


def _iq3_xxs(b: Blocks) -> Parts:
    last = words(b[..., 66:], "<u4")
    return Parts("IQ3_XXS", b[..., 2:66], last >> 28, _sevens(last), 2)


def _iq3_s(b: Blocks) -> Parts:
    numbers = b[..., 2:66] | bits(b[..., 66:74]).astype(np.uint16) << 8
    return Parts("IQ3_S", numbers, pairs(b[..., 106:]), bits(b[..., 74:106]), 0)


PARTS: dict[int, Callable[[Blocks], Parts]] = {16: _iq2_xxs, 17: _iq2_xs, 18: _iq3_xxs, 21: _iq3_s, 22: _iq2_s}
"""What takes blocks of points with signs apart, by type."""


def _numbers_of_parts(b: Blocks, kind: int) -> Floats:
    parts, scale = PARTS[kind](b), _scale(b, 0)
    count = parts.scales.astype(np.float32)
    if parts.halvings:
        steps = scale * (np.float32(0.5) + count) * np.float32(2.0 ** (1 - parts.halvings))
    else:
        steps = scale * (1 + 2 * count)
    return _points(parts.grid, parts.numbers, steps, parts.signs)


class ShiftedParts(NamedTuple):
    """What a block of points of IQ1_S is made of: numbers of points and scales as of `Parts`, the f16 of blocks, and
    whether the coordinates of a point are moved down, (rows, blocks, 32)."""

    numbers: NDArray[np.integer]
    scales: NDArray[np.integer]
    d: NDArray[np.float16]
    minus: NDArray[np.bool_]


def iq1_s(b: Blocks) -> ShiftedParts:
    """A 16-bit number for 32 numbers: three more bits of four points, three bits of scale, and the move's sign."""
    last = words(b[..., 34:], "<u2")
    high = (last[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(*b.shape[:2], 32)
    minus = np.repeat(last & 0x8000 != 0, 4, axis=-1)
    return ShiftedParts(b[..., 2:34] | high << 8, last >> 12 & 7, f16_of(b, 0), minus)


def iq1_m(b: Blocks) -> ShiftedParts:
    """The f16 lies in the upper four bits of four numbers, whose lower twelve have four scales each."""
    last = words(b[..., 48:], "<u2")
    parts = (last & 0xF000) >> np.array([12, 8, 4, 0], np.uint16)
    whole = np.bitwise_or.reduce(parts, axis=-1).astype("<u2").view("<f2")
    scales = (last[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(*b.shape[:2], 16)
    high = pairs(b[..., 32:48])
    return ShiftedParts(b[..., :32] | (high & 7).astype(np.uint16) << 8, scales, whole, high & 8 != 0)


def _shifted_numbers(parts: ShiftedParts) -> Floats:
    """Points of IQ1_S, all coordinates moved by an eighth up or down, times their steps."""
    steps = parts.d.astype(np.float32)[..., None] * (2 * parts.scales + 1).astype(np.float32)
    points = grid("IQ1_S")[parts.numbers]
    rows, blocks = points.shape[:2]
    moved = points + np.where(parts.minus, -IQ1_DELTA, IQ1_DELTA)[..., None]
    found = steps[..., None] * moved.reshape(rows, blocks, steps.shape[-1], -1)
    return np.asarray(found, np.float32).reshape(rows, -1)


def nvfp4_steps(b: Blocks) -> Floats:
    """Scales of 16 numbers, halved since FP4 counts halves: four bits of exponent and three of mantissa."""
    exponent, mantissa = (b[..., :4] >> 3 & 15).astype(np.int32), (b[..., :4] & 7).astype(np.float32)
    small, usual = np.ldexp(mantissa, -10), np.ldexp(1 + mantissa / 8, exponent - 8)
    steps = np.where(exponent == 0, small, usual)
    return np.asarray(np.where((b[..., :4] == 0) | (b[..., :4] == 127), np.float32(0), steps), np.float32)


def nvfp4_codes(b: Blocks) -> Blocks:
    """Numbers of E2M1, (rows, blocks, 4, 16)."""
    return nibbles(b[..., 4:].reshape(*b.shape[:2], 4, 8))


def _nvfp4(b: Blocks) -> Floats:
    return np.asarray(nvfp4_steps(b)[..., None] * FP4[nvfp4_codes(b)], np.float32).reshape(len(b), -1)


GRID_FLOATS: dict[int, Callable[[Blocks], Floats]] = {
    **{kind: partial(_numbers_of_parts, kind=kind) for kind in PARTS},
    19: lambda b: _shifted_numbers(iq1_s(b)),
    29: lambda b: _shifted_numbers(iq1_m(b)),
    40: _nvfp4,
}
"""Types that are decoded here."""
