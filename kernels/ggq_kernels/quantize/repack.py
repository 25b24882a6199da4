"""Repacking rows of blocks into tiles: what repack_rows.py needs, from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ggq_kernels.code import ready

rows = ready.module("repack_rows")
SPARE: int = rows.SPARE


class Term(NamedTuple):
    """Bits of a block: a 32-bit word, by its number, shifted left, then right, then masked."""

    word: int
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
        phase: Bytes of a block before its first whole word: word 0 begins so many, less 4, behind the block's first
            byte.
    """

    def __init__(self, cells: Sequence[Cell], block_bytes: int, phase: int) -> None:
        self._cells, self._block_bytes, self._before = cells, block_bytes, 4 - phase
        words = 1 + max(term.word for cell in cells for term in cell.terms)
        self._runs = -(-words // rows.RUN)
        self._terms = np.array([term for cell in cells for term in cell.terms], np.int64).reshape(-1, 4)
        counts = [len(cell.terms) for cell in cells]
        starts = np.cumsum([0, *counts[:-1]]) * rows.TERM_BYTES + self._terms.ctypes.data
        self._fixed = np.zeros((len(cells), rows.CELL_BYTES // 8), np.int64)
        self._fixed[:, rows.FLIP // 8] = [cell.flip for cell in cells]
        self._fixed[:, rows.TERMS // 8], self._fixed[:, rows.TERM_COUNT // 8] = starts, counts

    def into(self, blocks: int, arrays: Sequence[np.ndarray]) -> Repacking:
        """Moving the blocks of a tensor.

        Args:
            blocks: Of a row.
            arrays: The tiles' arrays, C-contiguous (tiles, numbers of a row, 16).
        """
        table = self._fixed.copy()
        steps = np.array([16 * array.itemsize for array in arrays])
        columns = np.array([array.shape[1] for array in arrays])
        which, places = (np.array([cell[k] for cell in self._cells]) for k in (0, 1))
        addresses = np.array([array.ctypes.data for array in arrays])
        table[:, rows.TO // 8] = addresses[which] + places * steps[which]
        table[:, rows.TILE_STRIDE // 8] = (columns * steps)[which]
        table[:, rows.BLOCK_STRIDE // 8] = (columns // blocks * steps)[which]
        table[:, rows.SIZE // 8] = steps[which] // 16
        words = np.array([0, 0, blocks, self._block_bytes, 0, len(table), self._runs], np.int64)
        return Repacking(table, words, self._before, (self, *arrays))


class Repacking(NamedTuple):
    """Moving the blocks of a tensor; threads may do so together.

    Args:
        table: The kernel's cells, for the first tile.
        words: The kernel's operands but for addresses and the number of tiles.
        before: Bytes before a row's address at which its word 0 begins.
        kept: What addresses point into.
    """

    table: np.ndarray
    words: np.ndarray
    before: int
    kept: tuple[object, ...]

    def run(self, sources: np.ndarray, tile: int) -> None:
        """Write whole tiles; the GIL is released meanwhile.

        Args:
            sources: int64 (16 * tiles,): the addresses of the rows; SPARE bytes before and behind them may be read.
            tile: The first that is written.
        """
        table, words, starts = self.table.copy(), self.words.copy(), sources - self.before
        table[:, rows.TO // 8] += tile * table[:, rows.TILE_STRIDE // 8]
        words[rows.ROWS // 8], words[rows.TILES // 8] = starts.ctypes.data, len(starts) // 16
        words[rows.CELLS // 8] = table.ctypes.data
        rows.repack(words.ctypes.data)
