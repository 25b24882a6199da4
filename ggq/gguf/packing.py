"""Quantized matrices as blocks of GGUF types: what `ggq.gguf.blocks` reads, written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.format.gguf.types import TYPES
from ggq.gguf import block_bytes
from ggq.gguf.block_bytes import fifth_bits, halves, joined, low_nibbles
from ggq.gguf.block_parts import FP4, Blocks
from ggq.gguf.blocks import SCHEMES
from ggq.gguf.grid_blocks import nvfp4_steps
from ggq.gguf.level_matrices import IQ4, LARGEST_STEP, SMALLEST_STEP
from ggq.quant.matrix import QuantizedMatrix


def packed(kind: int, matrix: QuantizedMatrix) -> NDArray[np.uint8]:
    """The bytes of a matrix.

    Args:
        kind: Number of a type in PACKERS.
        matrix: Of the scheme that expresses the type; its columns are whole blocks.

    Returns:
        uint8 (rows, bytes of a row).
    """
    rows, columns = matrix.shape
    size = TYPES[kind].numbers
    codes = matrix.codes[:rows, :columns].reshape(rows, columns // size, size)
    return np.asarray(PACKERS[kind](matrix, codes)).reshape(rows, -1)


def _scale(numbers: NDArray[np.float16] | None, codes: Blocks) -> NDArray[np.float16]:
    """The one of each block, (rows, blocks)."""
    assert numbers is not None
    rows, blocks = codes.shape[:2]
    return numbers[:rows, :: max(1, numbers.shape[1] // blocks)][:, :blocks]


def _lower(numbers: NDArray[np.uint8] | None, codes: Blocks, group: int) -> Blocks:
    """Sub-scales by block."""
    assert numbers is not None
    rows, blocks = codes.shape[:2]
    count = blocks * codes.shape[2] // group
    return numbers[:rows, :count].reshape(rows, blocks, -1)


def _upper_and_lower(m: QuantizedMatrix, codes: Blocks) -> tuple[Any, ...]:
    """Scales and sub-scales, with those of minimums where there are any."""
    group = m.scheme.group
    if m.minimums is None:
        return _scale(m.scales, codes), _lower(m.subscales, codes, group)
    scales = _scale(m.scales, codes), _scale(m.minimums, codes)
    return *scales, _lower(m.subscales, codes, group), _lower(m.subminimums, codes, group)


def _two_level(layout: Callable[..., Blocks]) -> Callable[[QuantizedMatrix, Blocks], Blocks]:
    return lambda m, codes: layout(*_upper_and_lower(m, codes), codes)


def _above(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    """What is added to each number: the minimum, which a scheme subtracts."""
    return halves(-_scale(m.minimums, codes))


def _q4_0(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return joined(halves(_scale(m.scales, codes)), low_nibbles(codes))


def _q4_1(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return joined(halves(_scale(m.scales, codes)), _above(m, codes), low_nibbles(codes))


def _q5_0(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return joined(halves(_scale(m.scales, codes)), fifth_bits(codes), low_nibbles(codes))


def _q5_1(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return joined(halves(_scale(m.scales, codes)), _above(m, codes), fifth_bits(codes), low_nibbles(codes))


def _q8_0(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return joined(halves(_scale(m.scales, codes)), codes ^ 128)


def _tq2_0(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return block_bytes.tq2_0(_scale(m.scales, codes), codes)


def _iq4_nl(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return block_bytes.iq4_nl(_scale(m.scales, codes), codes)


def _iq4_xs(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return block_bytes.iq4_xs(_scale(m.scales, codes), _lower(m.subscales, codes, m.scheme.group), codes)


def _mxfp4(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return block_bytes.mxfp4(_bytes_of_scales(39)[_scale(m.scales, codes).view(np.uint16)].astype(np.uint8), codes)


def _nvfp4(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    rows, blocks = codes.shape[:2]
    scales = np.ascontiguousarray(m.scales[:rows, : 4 * blocks]).view(np.uint16).reshape(rows, blocks, 4)
    return block_bytes.nvfp4(_bytes_of_scales(40)[scales].astype(np.uint8), codes)


def _q1_0(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return block_bytes.q1_0(_scale(m.scales, codes), codes)


def _q2_0(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return block_bytes.q2_0(_scale(m.scales, codes), codes)


@cache
def _bytes_of_scales(kind: int) -> NDArray[np.int16]:
    """The byte that stands for a scale, by the bits of its f16; -1 where none does."""
    if kind == 40:
        steps = nvfp4_steps(np.arange(128, dtype=np.uint8).reshape(1, 32, 4)).reshape(-1)
        numbers = np.arange(127, dtype=np.int16)  # the last is no number
    else:
        steps = np.exp2(np.arange(SMALLEST_STEP, LARGEST_STEP + 1, dtype=np.float32))
        numbers = np.arange(SMALLEST_STEP, LARGEST_STEP + 1, dtype=np.int16) + 128
    found = np.full(1 << 16, -1, np.int16)
    found[0] = 0
    found[steps[: len(numbers)].astype(np.float16).view(np.uint16)] = numbers
    return found


PACKERS: dict[int, Callable[[QuantizedMatrix, Blocks], Blocks]] = {
    2: _q4_0,
    3: _q4_1,
    6: _q5_0,
    7: _q5_1,
    8: _q8_0,
    10: _two_level(block_bytes.q2_k),
    11: _two_level(block_bytes.q3_k),
    12: _two_level(block_bytes.q4_k),
    13: _two_level(block_bytes.q5_k),
    14: _two_level(block_bytes.q6_k),
    20: _iq4_nl,
    23: _iq4_xs,
    35: _tq2_0,
    39: _mxfp4,
    40: _nvfp4,
    41: _q1_0,
    42: _q2_0,
}
"""What packs a matrix, by type."""

TABLES: dict[int, tuple[int, ...]] = {20: IQ4, 23: IQ4, 42: (-1, 0, 1, 2)}
TABLES |= dict.fromkeys((39, 40), tuple(int(number) for number in FP4))
"""The codebooks of types that have one."""


def kind_of(scheme: str, codebook: NDArray[np.int8] | None, scales: Callable[[], NDArray[np.float16]]) -> int | None:
    """The type in PACKERS that stands for exactly the numbers of a matrix; None where there is none.

    Args:
        scheme: Name of its scheme.
        codebook: Its table, where it has one.
        scales: Gives all its scales, which some types have only a choice of.
    """
    table = None if codebook is None else tuple(int(number) for number in codebook)
    for kind in (kind for kind, each in SCHEMES.items() if each == scheme and kind in PACKERS):
        if TABLES.get(kind) == table and (
            kind not in (39, 40) or (_bytes_of_scales(kind)[scales().view(np.uint16)] >= 0).all()
        ):
            return kind
    return None
