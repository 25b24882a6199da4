"""Quantized matrices as blocks of GGUF types: what `ggq.gguf.blocks` reads, written.

Source: the layouts of ggml-common.h (llama.cpp, MIT).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    size, put = PACKERS[kind]
    codes = matrix.codes[:rows, :columns].reshape(rows, columns // size, size)
    return np.asarray(put(matrix, codes)).reshape(rows, -1)


def _halves(numbers: NDArray[np.float16], codes: Blocks) -> Blocks:
    """One f16 of each block as bytes, (rows, blocks, 2)."""
    rows, blocks = codes.shape[:2]
    return np.ascontiguousarray(numbers[:rows, :blocks], "<f2").view(np.uint8).reshape(rows, blocks, 2)


def _low(codes: Blocks) -> Blocks:
    """The low four bits: the first half of the numbers in the lower halves of bytes."""
    half = codes.shape[-1] // 2
    return codes[..., :half] & 15 | (codes[..., half:] & 15) << 4


def _fifth(codes: Blocks) -> Blocks:
    """The fifth bits of 32 numbers in four bytes."""
    return np.packbits(codes >> 4 & 1, axis=-1, bitorder="little")


def _joined(*parts: Any) -> Blocks:
    return np.concatenate(parts, axis=-1)


def _above(matrix: QuantizedMatrix, codes: Blocks) -> Blocks:
    """What is added to each number: the minimum, which a scheme subtracts."""
    assert matrix.minimums is not None
    return _halves(-matrix.minimums, codes)


def _q4_0(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return _joined(_halves(m.scales, codes), _low(codes))


def _q4_1(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return _joined(_halves(m.scales, codes), _above(m, codes), _low(codes))


def _q5_0(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return _joined(_halves(m.scales, codes), _fifth(codes), _low(codes))


def _q5_1(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return _joined(_halves(m.scales, codes), _above(m, codes), _fifth(codes), _low(codes))


def _q8_0(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return _joined(_halves(m.scales, codes), codes ^ 128)


def _sixes(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    """Two f16, and eight sub-scales and sub-minimums of six bits in twelve bytes."""
    assert m.subscales is not None and m.subminimums is not None and m.minimums is not None
    rows, blocks = codes.shape[:2]
    s, n = (each[:rows, : blocks * 8].reshape(rows, blocks, 8) for each in (m.subscales, m.subminimums))
    low = s[..., :4] | s[..., 4:] >> 4 << 6
    middle = n[..., :4] | n[..., 4:] >> 4 << 6
    high = s[..., 4:] & 15 | (n[..., 4:] & 15) << 4
    return _joined(_halves(m.scales, codes), _halves(m.minimums, codes), low, middle, high)


def _by_64(codes: Blocks) -> Blocks:
    """256 numbers: of every 64 the first 32 in the lower halves of 32 bytes."""
    return _low(codes.reshape(*codes.shape[:2], 4, 64)).reshape(*codes.shape[:2], 128)


def _q4_k(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    return _joined(_sixes(m, codes), _by_64(codes))


def _q5_k(m: QuantizedMatrix, codes: Blocks) -> Blocks:
    fifth = (codes >> 4 & 1).reshape(*codes.shape[:2], 8, 32)
    high = np.packbits(fifth, axis=-2, bitorder="little")[..., 0, :]
    return _joined(_sixes(m, codes), high, _by_64(codes))


PACKERS: dict[int, tuple[int, Callable[[QuantizedMatrix, Blocks], Blocks]]] = {
    2: (32, _q4_0),
    3: (32, _q4_1),
    6: (32, _q5_0),
    7: (32, _q5_1),
    8: (32, _q8_0),
    12: (256, _q4_k),
    13: (256, _q5_k),
}
"""Numbers of a block and what packs it, by type."""
