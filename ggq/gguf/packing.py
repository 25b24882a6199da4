"""Quantized matrices as blocks of GGUF types: what `ggq.gguf.blocks` reads, written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.format.gguf.types import TYPES
from ggq.gguf import block_bytes
from ggq.gguf.block_bytes import fifth_bits, halves, joined, low_nibbles
from ggq.gguf.block_parts import Blocks
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
    35: _tq2_0,
}
"""What packs a matrix, by type."""
