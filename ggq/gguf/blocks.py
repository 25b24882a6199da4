"""Tensors of GGUF types as quantized matrices of our schemes, number for number, or as float32.

Each type is read by a function of its blocks, uint8 (rows, blocks, bytes of a block). `matrix` gives codes and scales
where a scheme stands for exactly the numbers that ggml computes; `numbers` computes them in the order that ggml does.

Source: the layouts of ggml-common.h (llama.cpp, MIT).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ggq.errors import UnsupportedError
from ggq.format.gguf.types import TYPES, type_name
from ggq.gguf.block_parts import FP4, Blocks, Floats, f16_of, nibbles
from ggq.gguf.grid_blocks import GRID_FLOATS
from ggq.gguf.level_matrices import IQ4, LEVEL_MATRICES, LEVEL_SCHEMES, iq4_xs_codes, iq4_xs_scales, made, tq1_0_digits
from ggq.quant.matrix import QuantizedMatrix
from ggq.quant.reference import decode


def rows_of(kind: int, raw: NDArray[np.uint8], shape: tuple[int, ...]) -> Blocks:
    """A tensor's bytes as blocks (rows, blocks of a row, bytes); rows of all dimensions but the last."""
    block = TYPES[kind]
    return raw.reshape(-1, shape[-1] // block.numbers, block.bytes)


def numbers(kind: int, blocks: Blocks) -> Floats:
    """What blocks stand for, float32 (rows, columns), bit for bit as ggml's own dequantization.

    Raises:
        UnsupportedError: A type that is not read.
    """
    if kind in FLOATS:
        return FLOATS[kind](blocks)
    found = matrix(kind, blocks)
    if found is None:
        raise unread(kind)
    return decode(found)


def matrix(kind: int, blocks: Blocks) -> QuantizedMatrix | None:
    """The quantized matrix that blocks are; None for floats.

    Raises:
        UnsupportedError: Scales of MXFP4 that f16 does not hold.
    """
    return MATRICES[kind](blocks) if kind in MATRICES else None


def unread(kind: int, path: str | None = None, where: str | None = None) -> UnsupportedError:
    """The refusal of a type that is not read."""
    problem = f"tensors of type {type_name(kind)} cannot be decoded by this version"
    return UnsupportedError(problem, path=path, where=where)


def _fifth_bits(blocks: Blocks, start: int) -> Blocks:
    """Bit j of a block's four bytes is the fifth bit of number j."""
    bits = np.unpackbits(np.ascontiguousarray(blocks[..., start : start + 4]), axis=-1, bitorder="little")
    return bits << 4


def _q4_0(b: Blocks) -> QuantizedMatrix:
    return made("q4-g32", nibbles(b[..., 2:]), f16_of(b, 0), b.shape[1] * 32)


def _q4_1(b: Blocks) -> QuantizedMatrix:
    return made("q4m-g32", nibbles(b[..., 4:]), f16_of(b, 0), b.shape[1] * 32, minimums=-f16_of(b, 2))


def _q5_0(b: Blocks) -> QuantizedMatrix:
    return made("q5-g32", nibbles(b[..., 6:]) | _fifth_bits(b, 2), f16_of(b, 0), b.shape[1] * 32)


def _q5_1(b: Blocks) -> QuantizedMatrix:
    codes = nibbles(b[..., 8:]) | _fifth_bits(b, 4)
    return made("q5m-g32", codes, f16_of(b, 0), b.shape[1] * 32, minimums=-f16_of(b, 2))


def _q8_0(b: Blocks) -> QuantizedMatrix:
    return made("q8-g32", b[..., 2:] ^ 128, f16_of(b, 0), b.shape[1] * 32)


def _pairs_of_six(packed: Blocks) -> tuple[Blocks, Blocks]:
    """Sub-scales and sub-minimums of Q4_K and Q5_K: eight of each, six bits, in twelve bytes."""
    low, middle, high = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=-1)
    minimums = np.concatenate([middle & 63, (high >> 4) | (middle >> 6 << 4)], axis=-1)
    return scales, minimums


def _with_minimums(name: str, b: Blocks, codes: Blocks, d: int) -> QuantizedMatrix:
    scales, minimums = _pairs_of_six(b[..., d + 4 : d + 16])
    rows = len(b)
    return made(
        name,
        codes,
        f16_of(b, d),
        b.shape[1] * 256,
        minimums=f16_of(b, d + 2),
        subscales=scales.reshape(rows, -1),
        subminimums=minimums.reshape(rows, -1),
    )


def _halves_by_64(packed: Blocks) -> Blocks:
    """128 bytes of two numbers each: of every 32 bytes the low halves, then the high ones; (rows, blocks, 256)."""
    return nibbles(packed.reshape(*packed.shape[:2], 4, 32)).reshape(*packed.shape[:2], 256)


def _q4_k(b: Blocks) -> QuantizedMatrix:
    return _with_minimums("q4m-g32-s6", b, _halves_by_64(b[..., 16:]), 0)


def _q5_k(b: Blocks) -> QuantizedMatrix:
    high = b[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    codes = _halves_by_64(b[..., 48:]) | (high << 4).reshape(*b.shape[:2], 256)
    return _with_minimums("q5m-g32-s6", b, codes, 0)


def _q6_k(b: Blocks) -> QuantizedMatrix:
    """Of 128 numbers the low four bits lie in 64 bytes, the high two in 32."""
    low = b[..., :128].reshape(*b.shape[:2], 2, 64)
    high = b[..., 128:192].reshape(*b.shape[:2], 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    codes = nibbles(low).reshape(*b.shape[:2], 2, 4, 32) | high << 4
    scales = b[..., 192:208] ^ 128
    return made(
        "q6-g16-s8",
        codes,
        np.repeat(f16_of(b, 208), 2, axis=1),
        b.shape[1] * 256,
        subscales=scales.reshape(len(b), -1),
    )


def _quarters(packed: Blocks) -> Blocks:
    """64 bytes of four numbers each: of every 32 bytes the lowest two bits, then the next; (rows, blocks, 256)."""
    split = packed.reshape(*packed.shape[:2], 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    return split.reshape(*packed.shape[:2], 256)


def _q2_k(b: Blocks) -> QuantizedMatrix:
    rows = len(b)
    return made(
        "q2m-g16-s4",
        _quarters(b[..., 16:80]),
        np.repeat(f16_of(b, 80), 2, axis=1),
        b.shape[1] * 256,
        minimums=np.repeat(f16_of(b, 82), 2, axis=1),
        subscales=(b[..., :16] & 15).reshape(rows, -1),
        subminimums=(b[..., :16] >> 4).reshape(rows, -1),
    )


def _q3_k(b: Blocks) -> QuantizedMatrix:
    """The third bit, of 32 bytes, counts 4; the sixteen scales have six bits in twelve bytes."""
    high = (b[..., None, :32] >> np.arange(8, dtype=np.uint8)[:, None] & 1).reshape(*b.shape[:2], 256)
    low, top = b[..., 96:104], b[..., 104:108]
    fours = np.concatenate([low & 15, low >> 4], axis=-1)
    twos = (top[..., None, :] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3).reshape(*b.shape[:2], 16)
    return made(
        "q3-g16-s6",
        _quarters(b[..., 32:96]) | high << 2,
        np.repeat(f16_of(b, 108), 2, axis=1),
        b.shape[1] * 256,
        subscales=(fours | twos << 4).reshape(len(b), -1),
    )


def _tq2_0(b: Blocks) -> QuantizedMatrix:
    return made("ternary-g256", _quarters(b[..., :64]), f16_of(b, 64), b.shape[1] * 256)


def _f32(b: Blocks) -> Floats:
    return np.ascontiguousarray(b).view("<f4")[..., 0]


def _f16_numbers(b: Blocks) -> Floats:
    return f16_of(b, 0).astype(np.float32)


def _bf16(b: Blocks) -> Floats:
    return (np.ascontiguousarray(b).view("<u2")[..., 0].astype(np.uint32) << 16).view(np.float32)


def _f64(b: Blocks) -> Floats:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(b).view("<f8")[..., 0].astype(np.float32)


LEVELS = np.array(IQ4, np.float32)


def _iq4_nl(b: Blocks) -> Floats:
    levels = LEVELS[nibbles(b[..., 2:])]
    return (f16_of(b, 0).astype(np.float32)[..., None] * levels).reshape(len(b), -1)


def _iq4_xs(b: Blocks) -> Floats:
    steps = f16_of(b, 0).astype(np.float32)[..., None] * iq4_xs_scales(b).astype(np.float32)
    return (steps[..., None] * LEVELS[iq4_xs_codes(b)]).reshape(len(b), -1)


def _mxfp4(b: Blocks) -> Floats:
    """A power of two for 32 numbers of E2M1; FP4 counts halves."""
    exponent = b[..., 0].astype(np.uint32)
    bits = np.where(exponent < 2, np.uint32(0x00200000) << exponent, (exponent - 1) << 23)
    halved = bits.astype(np.uint32).view(np.float32)
    return (halved[..., None] * FP4[nibbles(b[..., 1:])]).reshape(len(b), -1)


def _tq1_0(b: Blocks) -> Floats:
    digits = tq1_0_digits(b).astype(np.float32) - 1
    return (f16_of(b, 52).astype(np.float32)[..., None] * digits).reshape(len(b), -1)


def _q2_0(b: Blocks) -> Floats:
    """Four levels from -1 to 2, four of them a byte."""
    levels = (b[..., 2:, None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3).reshape(*b.shape[:2], 64).astype(np.float32)
    return ((levels - 1) * f16_of(b, 0).astype(np.float32)[..., None]).reshape(len(b), -1)


def _q1_0(b: Blocks) -> QuantizedMatrix:
    bits = np.unpackbits(np.ascontiguousarray(b[..., 2:]), axis=-1, bitorder="little")
    return made("binary-g128", bits, f16_of(b, 0), b.shape[1] * 128)


MATRICES: dict[int, Callable[[Blocks], QuantizedMatrix]] = {
    2: _q4_0,
    3: _q4_1,
    6: _q5_0,
    7: _q5_1,
    8: _q8_0,
    10: _q2_k,
    11: _q3_k,
    12: _q4_k,
    13: _q5_k,
    14: _q6_k,
    35: _tq2_0,
    41: _q1_0,
    **LEVEL_MATRICES,
}
"""Types that a scheme expresses: all but floats, of which F32, F16 and BF16 are schemes of their own."""

SCHEMES: dict[int, str] = {
    0: "f32",
    1: "f16",
    28: "f32",
    2: "q4-g32",
    3: "q4m-g32",
    6: "q5-g32",
    7: "q5m-g32",
    8: "q8-g32",
    10: "q2m-g16-s4",
    11: "q3-g16-s6",
    12: "q4m-g32-s6",
    13: "q5m-g32-s6",
    14: "q6-g16-s8",
    30: "bf16",
    35: "ternary-g256",
    41: "binary-g128",
    **LEVEL_SCHEMES,
}
"""Names of the schemes that express types exactly, F64 as far as float32 does."""

FLOATS: dict[int, Callable[[Blocks], Floats]] = {
    0: _f32,
    1: _f16_numbers,
    20: _iq4_nl,
    23: _iq4_xs,
    28: _f64,
    30: _bf16,
    34: _tq1_0,
    39: _mxfp4,
    42: _q2_0,
    **GRID_FLOATS,
}
"""Types whose numbers are computed in the order that ggml has, without a matrix."""
