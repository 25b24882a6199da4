"""Tensors whose numbers are levels of a table as quantized matrices with a codebook, number for number.

What a type keeps small by a grid of points takes more bits here, those of the smallest scheme that holds its numbers
exactly. A step that is a fraction of a block's f16 keeps the f16, and inputs are multiplied with the fraction.

Source: the layouts of ggml-common.h (llama.cpp, MIT).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.errors import UnsupportedError
from ggq.gguf.block_parts import FP4, Blocks, f16_of, nibbles
from ggq.gguf.grid_blocks import PARTS, iq1_m, iq1_s, nvfp4_codes, nvfp4_steps, places
from ggq.gguf.grids import PACKED
from ggq.quant import parse_scheme
from ggq.quant.matrix import QuantizedMatrix, subscale_offset

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""Levels of IQ4_NL and IQ4_XS."""

SMALLEST_STEP, LARGEST_STEP = -24, 15
"""Exponents of the powers of two that f16 holds."""


def made(name: str, codes: Blocks, scales: NDArray[np.float16], columns: int, **more: Any) -> QuantizedMatrix:
    """A matrix of a scheme by name; `codes` are (rows, ...), the columns of a row one after the other."""
    flat = codes.reshape(len(codes), -1).astype(np.uint8, copy=False)
    return QuantizedMatrix(parse_scheme(name), (len(codes), columns), flat, scales, **more)


def _table(*levels: int, bits: int) -> NDArray[np.int8]:
    """A codebook; entries that no code uses are 0."""
    return np.array([*levels, *[0] * ((1 << bits) - len(levels))], np.int8)


def _two_level(name: str, codes: Blocks, d: NDArray[np.float16], counts: NDArray[Any], **more: Any) -> QuantizedMatrix:
    """A matrix whose steps are a block's f16 times a whole number for each group."""
    scheme = parse_scheme(name)
    sub = (counts.astype(np.int16) + subscale_offset(scheme)).astype(np.uint8).reshape(len(codes), -1)
    supers = sub.shape[1] // d.shape[1] // 8
    return made(name, codes, np.repeat(d, supers, axis=1), d.shape[1] * 256, subscales=sub, **more)


def _factor(columns: int, halvings: int) -> NDArray[np.float32]:
    return np.full(columns, 2.0**-halvings, np.float32)


def _iq4_nl(b: Blocks) -> QuantizedMatrix:
    return made("c4-g32", nibbles(b[..., 2:]), f16_of(b, 0), b.shape[1] * 32, codebook=_table(*IQ4, bits=4))


def iq4_xs_scales(b: Blocks) -> NDArray[np.int16]:
    """Eight whole numbers, (rows, blocks, 8), of six bits less 32: four in nibbles, two in a 16-bit number."""
    high = np.ascontiguousarray(b[..., 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    low = np.stack([b[..., 4:8] & 15, b[..., 4:8] >> 4], axis=-1).reshape(*b.shape[:2], 8)
    return (low | high << 4).astype(np.int16) - 32


def iq4_xs_codes(b: Blocks) -> Blocks:
    """Places in the table, (rows, blocks, 8, 32)."""
    return nibbles(b[..., 8:].reshape(*b.shape[:2], 8, 16))


def _iq4_xs(b: Blocks) -> QuantizedMatrix:
    table = _table(*IQ4, bits=4)
    return _two_level("c4-g32-s6", iq4_xs_codes(b), f16_of(b, 0), iq4_xs_scales(b), codebook=table)


def _mxfp4(b: Blocks) -> QuantizedMatrix:
    """A power of two for 32 numbers of E2M1; FP4 counts halves. Where all are 0, the power may be any."""
    exponent, codes = b[..., 0].astype(np.int32) - 128, nibbles(b[..., 1:])
    zero = (codes & 7 == 0).all(axis=-1)
    wrong = ~zero & ((exponent < SMALLEST_STEP) | (exponent > LARGEST_STEP))
    if wrong.any():
        found, ends = int(exponent[wrong][0]) + 1, f"2**{SMALLEST_STEP + 1} to 2**{LARGEST_STEP + 1}"
        raise UnsupportedError(
            f"an MXFP4 scale of 2**{found} is stored as f16, which has {ends}", fix="convert it with --scheme q8-g32"
        )
    scales = np.where(zero, 0, np.exp2(exponent.clip(SMALLEST_STEP, LARGEST_STEP))).astype(np.float16)
    return made("c4-g32", codes, scales, b.shape[1] * 32, codebook=FP4.astype(np.int8))


def _nvfp4(b: Blocks) -> QuantizedMatrix:
    scales = nvfp4_steps(b).reshape(len(b), -1).astype(np.float16)  # exact: four significant bits
    return made("c4-g16", nvfp4_codes(b), scales, b.shape[1] * 64, codebook=FP4.astype(np.int8))


def _q2_0(b: Blocks) -> QuantizedMatrix:
    """Four levels from -1 to 2, four of them a byte."""
    codes = (b[..., 2:, None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3).reshape(*b.shape[:2], 64)
    return made("c2-g64", codes, f16_of(b, 0), b.shape[1] * 64, codebook=_table(-1, 0, 1, 2, bits=2))


def tq1_0_digits(b: Blocks) -> Blocks:
    """256 digits from 0 to 2: five a byte, as a fraction of 256; the last four bytes have four."""
    powers = np.array([1, 3, 9, 27, 81], np.uint8)[:, None]
    parts = [
        (b[..., None, start:stop] * powers[:count]).reshape(*b.shape[:2], -1)
        for start, stop, count in ((0, 32, 5), (32, 48, 5), (48, 52, 4))
    ]
    return (np.concatenate(parts, axis=-1).astype(np.uint16) * 3 >> 8).astype(np.uint8)


def _tq1_0(b: Blocks) -> QuantizedMatrix:
    return made("ternary-g256", tq1_0_digits(b), f16_of(b, 52), b.shape[1] * 256)


GRID_SCHEMES = {
    16: "c3-g32-s6+scale",
    17: "c3-g16-s6+scale",
    18: "c4-g32-s6+scale",
    21: "c4-g32-s6",
    22: "c3-g16-s6+scale",
}
"""Names of the schemes of points with signs, by type."""


def _points(b: Blocks, kind: int) -> QuantizedMatrix:
    """A code is the place of a level, with the sign above it."""
    parts, name = PARTS[kind](b), GRID_SCHEMES[kind]
    scheme, levels = parse_scheme(name), PACKED[parts.grid].levels
    half = 1 << (scheme.bits - 1)
    codes = places(parts.grid)[parts.numbers].reshape(*b.shape[:2], 256) | parts.signs.reshape(*b.shape[:2], 256) * half
    positive = [*levels, *[0] * (half - len(levels))]
    more: dict[str, Any] = {"codebook": _table(*positive, *[-level for level in positive], bits=scheme.bits)}
    if parts.halvings:
        more["input_scale"] = _factor(b.shape[1] * 256, parts.halvings)
    counts = 2 * parts.scales.astype(np.int16) + 1
    return _two_level(name, codes, f16_of(b, 0), counts, **more)


def _iq1_s(b: Blocks) -> QuantizedMatrix:
    """All numbers of a group are moved up or down by an eighth of its step: a minimum of 7 or 9 eighths."""
    parts = iq1_s(b)
    rows, blocks = b.shape[:2]
    codes = places("IQ1_S")[parts.numbers].reshape(rows, blocks, 256)
    counts = (2 * parts.scales + 1).astype(np.uint8)
    eighths = counts * np.where(parts.minus[..., ::4], 9, 7).astype(np.uint8)
    with np.errstate(over="ignore"):  # what f16 does not hold is refused when it is packed
        scales = parts.d * np.float16(8)
    return made(
        "q2m-g32-s8+scale",
        codes,
        scales,
        blocks * 256,
        subscales=counts.reshape(rows, -1),
        minimums=parts.d,
        subminimums=eighths.reshape(rows, -1),
        input_scale=_factor(blocks * 256, 3),
    )


def _iq1_m(b: Blocks) -> QuantizedMatrix:
    """Eight numbers are moved together: levels are eighths, a code is a place and whether it is moved down."""
    parts = iq1_m(b)
    minus = np.repeat(parts.minus.astype(np.uint8), 8, axis=-1).reshape(*b.shape[:2], 256)
    codes = places("IQ1_S")[parts.numbers].reshape(*b.shape[:2], 256) << 1 | minus
    table, factor = _table(-7, -9, 1, -1, 9, 7, bits=3), _factor(b.shape[1] * 256, 3)
    return _two_level("c3-g16-s6+scale", codes, parts.d, 2 * parts.scales + 1, codebook=table, input_scale=factor)


LEVEL_MATRICES: dict[int, Callable[[Blocks], QuantizedMatrix]] = {
    20: _iq4_nl,
    23: _iq4_xs,
    34: _tq1_0,
    39: _mxfp4,
    40: _nvfp4,
    42: _q2_0,
    **{kind: partial(_points, kind=kind) for kind in GRID_SCHEMES},
    19: _iq1_s,
    29: _iq1_m,
}
"""Types that a codebook, or a larger scheme, expresses."""

LEVEL_SCHEMES: dict[int, str] = {
    20: "c4-g32",
    23: "c4-g32-s6",
    34: "ternary-g256",
    39: "c4-g32",
    40: "c4-g16",
    42: "c2-g64",
    **GRID_SCHEMES,
    19: "q2m-g32-s8+scale",
    29: "c3-g16-s6+scale",
}
"""Names of their schemes."""
