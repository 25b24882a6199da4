"""Repacking rows of blocks into tiles: what repack_rows.py needs, from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ggq_kernels.code import ready

rows = ready.module("repack_rows")
SPARE: int = rows.SPARE


class Term(NamedTuple):
    """Bits of a block: the 32-bit word at byte `at`, shifted left, then right, then masked."""

    at: int
    left: int
    right: int
    mask: int


class Cell(NamedTuple):
    """A number that each row of a tile has for each block.

    Args:
        array: Which of the tiles' arrays it belongs to.
        place: Its place among the numbers that the array has for one block.
        flip: What it is changed by, exclusive or, once its terms are put together.
        terms: Which bits of the block it is made of.
    """

    array: int
    place: int
    flip: int
    terms: tuple[Term, ...]


class Repacker:
    """What moves blocks of one type; threads may use it together.

    Args:
        cells: Of the type.
        block_bytes: Of a block.
    """

    def __init__(self, cells: Sequence[Cell], block_bytes: int) -> None:
        self._cells, self._block_bytes = cells, block_bytes
        self._terms = np.array([term for cell in cells for term in cell.terms], np.int64).reshape(-1, 4)
        counts = [len(cell.terms) for cell in cells]
        starts = np.cumsum([0, *counts[:-1]]) * rows.TERM_BYTES + self._terms.ctypes.data
        self._fixed = np.zeros((len(cells), rows.CELL_BYTES // 8), np.int64)
        self._fixed[:, rows.FLIP // 8] = [cell.flip for cell in cells]
        self._fixed[:, rows.TERMS // 8], self._fixed[:, rows.TERM_COUNT // 8] = starts, counts

    def run(self, sources: np.ndarray, blocks: int, arrays: Sequence[np.ndarray]) -> None:
        """Write whole tiles; the GIL is released meanwhile.

        Args:
            sources: int64 (16 * tiles,): the addresses of the rows; SPARE bytes behind each may be read.
            blocks: Of a row.
            arrays: The tiles' part of each array, C-contiguous (tiles, numbers of a row, 16).
        """
        table, words = self._fixed.copy(), np.zeros(rows.WORDS // 8, np.int64)
        for cell, place in zip(self._cells, table, strict=True):
            array = arrays[cell.array]
            of_block, step = array.shape[1] // blocks, 16 * array.itemsize
            place[rows.TO // 8] = array.ctypes.data + cell.place * step
            place[rows.TILE_STRIDE // 8], place[rows.BLOCK_STRIDE // 8] = array.shape[1] * step, of_block * step
            place[rows.SIZE // 8] = array.itemsize
        words[:] = [
            sources.ctypes.data,
            len(sources) // 16,
            blocks,
            self._block_bytes,
            table.ctypes.data,
            len(table),
        ]
        rows.repack(words.ctypes.data)
