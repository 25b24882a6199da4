"""How the blocks of GGUF types lie in bytes: what `ggq.gguf.blocks` reads, written from codes and scales.

Arrays have any shape before their last axis, which is that of a block: codes (..., numbers of a block), sub-scales
(..., groups), upper scales (...). All codes and sub-scales are uint8 and start at 0.

Source: the layouts of ggml-common.h (llama.cpp, MIT).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.gguf.block_parts import Blocks

Scales = NDArray[Any]


def joined(*parts: Any) -> Blocks:
    """Parts of blocks, one after the other."""
    return np.concatenate(parts, axis=-1)


def halves(numbers: Scales) -> Blocks:
    """One f16 of each block as bytes."""
    return np.ascontiguousarray(numbers, "<f2")[..., None].view(np.uint8)


def low_nibbles(codes: Blocks) -> Blocks:
    """The low four bits: the first half of the numbers in the lower halves of bytes."""
    half = codes.shape[-1] // 2
    return codes[..., :half] & 15 | (codes[..., half:] & 15) << 4


def fifth_bits(codes: Blocks) -> Blocks:
    """The fifth bits of 32 numbers in four bytes."""
    return np.packbits(codes >> 4 & 1, axis=-1, bitorder="little")


def _parts(codes: Blocks, *shape: int) -> Blocks:
    return codes.reshape(*codes.shape[:-1], *shape)


def _quarters(codes: Blocks) -> Blocks:
    """Two bits of each number, four of them a byte: of every 128 numbers the first 32 in the lowest bits."""
    four = _parts(codes & 3, -1, 4, 32)
    packed = four[..., 0, :] | four[..., 1, :] << 2 | four[..., 2, :] << 4 | four[..., 3, :] << 6
    return packed.reshape(*codes.shape[:-1], -1)


def _by_64(codes: Blocks) -> Blocks:
    """256 numbers: of every 64 the first 32 in the lower halves of 32 bytes."""
    return low_nibbles(_parts(codes, 4, 64)).reshape(*codes.shape[:-1], 128)


def _by_8(bits: Blocks) -> Blocks:
    """One bit of each number: of 256 the first 32 in the lowest bits of 32 bytes."""
    return np.packbits(_parts(bits, 8, 32), axis=-2, bitorder="little")[..., 0, :]


def _sixes(steps: Blocks, minimums: Blocks) -> Blocks:
    """Eight sub-scales and sub-minimums of six bits in twelve bytes."""
    low = steps[..., :4] | steps[..., 4:] >> 4 << 6
    middle = minimums[..., :4] | minimums[..., 4:] >> 4 << 6
    return joined(low, middle, steps[..., 4:] & 15 | (minimums[..., 4:] & 15) << 4)


def q2_k(step: Scales, minimum: Scales, steps: Blocks, minimums: Blocks, codes: Blocks) -> Blocks:
    """Q2_K: sixteen sub-scales and sub-minimums of four bits."""
    return joined(steps | minimums << 4, _quarters(codes), halves(step), halves(minimum))


def q3_k(step: Scales, steps: Blocks, codes: Blocks) -> Blocks:
    """Q3_K: sixteen sub-scales of six bits, from 0 for -32; codes from 0 for -4."""
    low = steps[..., :8] & 15 | (steps[..., 8:] & 15) << 4
    four = _parts(steps >> 4, 4, 4)
    high = four[..., 0, :] | four[..., 1, :] << 2 | four[..., 2, :] << 4 | four[..., 3, :] << 6
    return joined(_by_8(codes >> 2), _quarters(codes), low, high, halves(step))


def q4_k(step: Scales, minimum: Scales, steps: Blocks, minimums: Blocks, codes: Blocks) -> Blocks:
    """Q4_K: eight sub-scales and sub-minimums of six bits."""
    return joined(halves(step), halves(minimum), _sixes(steps, minimums), _by_64(codes))


def q5_k(step: Scales, minimum: Scales, steps: Blocks, minimums: Blocks, codes: Blocks) -> Blocks:
    """Q5_K: as Q4_K, the fifth bits apart."""
    return joined(halves(step), halves(minimum), _sixes(steps, minimums), _by_8(codes >> 4), _by_64(codes))


def q6_k(step: Scales, steps: Blocks, codes: Blocks) -> Blocks:
    """Q6_K: sixteen sub-scales of eight bits, from 0 for -128; codes from 0 for -32."""
    low = low_nibbles(_parts(codes, 2, 128)).reshape(*codes.shape[:-1], 128)
    return joined(low, _quarters(codes >> 4), steps ^ 128, halves(step))


def iq4_nl(step: Scales, codes: Blocks) -> Blocks:
    """IQ4_NL: places in a table."""
    return joined(halves(step), low_nibbles(codes))


def iq4_xs(step: Scales, steps: Blocks, codes: Blocks) -> Blocks:
    """IQ4_XS: eight sub-scales of six bits, from 0 for -32; places in the table of IQ4_NL."""
    high = (steps.astype(np.uint16) >> 4 << np.arange(0, 16, 2, dtype=np.uint16)).sum(-1, dtype=np.uint16)
    low = steps[..., ::2] & 15 | (steps[..., 1::2] & 15) << 4
    packed = low_nibbles(_parts(codes, 8, 32)).reshape(*codes.shape[:-1], 128)
    return joined(halves(step), np.ascontiguousarray(high, "<u2")[..., None].view(np.uint8), low, packed)


def tq1_0(step: Scales, codes: Blocks) -> Blocks:
    """TQ1_0: five codes from 0 to 2 a byte, a number of five ternary digits as a fraction of 256, rounded up."""
    parts = []
    for start, width, count in ((0, 32, 5), (160, 16, 5), (240, 4, 4)):
        digits = _parts(codes[..., start : start + width * count], count, width).astype(np.uint16)
        powers = 3 ** np.arange(4, 4 - count, -1, dtype=np.uint16)[:, None]
        whole = (digits * powers).sum(-2, dtype=np.uint16).astype(np.uint32)
        parts.append(((whole * 256 + 242) // 243).astype(np.uint8))
    return joined(*parts, halves(step))


def tq2_0(step: Scales, codes: Blocks) -> Blocks:
    """TQ2_0: codes from 0 to 2, four a byte."""
    return joined(_quarters(codes), halves(step))


def mxfp4(exponent: Blocks, codes: Blocks) -> Blocks:
    """MXFP4: a power of two, from 0 for 2**-127; codes of E2M1."""
    return joined(exponent[..., None], low_nibbles(codes))


def nvfp4(steps: Blocks, codes: Blocks) -> Blocks:
    """NVFP4: four scales as bytes of E4M3; codes of E2M1, of every 16 the first eight in the lower halves of bytes."""
    return joined(steps, low_nibbles(_parts(codes, 4, 16)).reshape(*codes.shape[:-1], 32))


def q1_0(step: Scales, codes: Blocks) -> Blocks:
    """Q1_0: a bit each."""
    return joined(halves(step), np.packbits(codes, axis=-1, bitorder="little"))


def q2_0(step: Scales, codes: Blocks) -> Blocks:
    """Q2_0: places in a table of four, four a byte."""
    four = _parts(codes, 16, 4)
    return joined(halves(step), four[..., 0] | four[..., 1] << 2 | four[..., 2] << 4 | four[..., 3] << 6)
