"""Where each bit of a GGUF block goes in our tiles, and moving the blocks of a whole tensor there.

Most types are our schemes but for the order of bits. That order is not written down a second time: blocks with a single
bit are read as any others (blocks.py) and packed (quant/tiles.py), which shows where it comes out.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ggq.format.gguf.types import TYPES
from ggq.format.scheme import TILE_ROWS
from ggq.gguf.blocks import MATRICES
from ggq.quant.matrix import geometry
from ggq.quant.tiles import MatrixView, empty_segments, pack_rows, view_matrix

if TYPE_CHECKING:
    from ggq_kernels.quantize.repack import Repacker, Term

MOVED = frozenset({2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 23, 35, 41, 42})
"""Types whose bits are only moved, or turned over."""

LEAST_BYTES = 1 << 16
"""Smaller tensors are laid out by NumPy: that takes less time than compiling or loading a kernel."""

CHUNK_BYTES = 1 << 19
"""Bytes of blocks, about, that a thread reads and moves at a time; they stay in its second-level cache."""

Reader = Callable[[int, NDArray[np.uint8]], None]
"""Fills memory with the bytes of a tensor from some byte on."""


def packed(kind: int, blocks: NDArray[np.uint8]) -> MatrixView:
    """Blocks (rows, blocks, bytes) as tiles, by NumPy."""
    matrix = MATRICES[kind](blocks)
    sizes = geometry(matrix.scheme, matrix.shape)
    view = view_matrix(matrix.scheme, sizes, empty_segments(sizes), 0)
    pack_rows(matrix, view)
    return view


@cache
def repacker_of(kind: int) -> Repacker:
    """What moves the blocks of a type in MOVED.

    A bit's number is 8 * byte + place; a word's bits are counted in the same way, from its lowest byte on.
    """
    from ggq_kernels.quantize.repack import Cell, Repacker

    size = TYPES[kind].bytes
    blocks = np.zeros((8 * size + 1, 1, size), np.uint8)
    bits = np.arange(8 * size)
    blocks[bits + 1, 0, bits // 8] = 1 << bits % 8
    cells: list[Cell] = []
    phase = _phase(kind)
    for number, array in enumerate(packed(kind, blocks).tiled):
        flat = np.ascontiguousarray(array.transpose(0, 2, 1)).reshape(-1, array.shape[1])[: len(blocks)]
        words = flat.view(f"<u{array.itemsize}").astype(np.uint32)
        for place in range(words.shape[1]):
            moved = words[1:, place] ^ words[0, place]
            from_bit = {
                bit: int(source) for bit in range(8 * array.itemsize) for source in np.flatnonzero(moved >> bit & 1)
            }
            cells.append(Cell(number, place, int(words[0, place]), _terms(from_bit, phase)))
    return Repacker(cells, size, phase)


def _phase(kind: int) -> int:
    """Bytes, from 1 to 4, of a block before the words that most codes lie in: a half, or none, stands before those."""
    return 2 if TYPES[kind].bytes % 4 == 2 and TYPES[kind].numbers < 256 else 4


def _terms(from_bit: dict[int, int], phase: int) -> tuple[Term, ...]:
    """Bits of a number, by the block's bits that they come from, as few shifted words of the block."""
    from ggq_kernels.quantize.repack import Term

    together: dict[tuple[int, int], int] = defaultdict(int)
    for bit, source in from_bit.items():
        word, place = divmod(source + 8 * (4 - phase), 32)
        together[word, place - bit] |= 1 << bit
    return tuple(Term(word, max(0, -down), max(0, down), mask) for (word, down), mask in together.items())


class Workers:
    """Threads that lay tensors out, one for each core, with memory of their own."""

    def __init__(self) -> None:
        from ggq_kernels.run.cores import available_cores

        self._count, self._own = max(1, available_cores()), threading.local()
        self._pool = ThreadPoolExecutor(self._count)

    def run(self, work: Callable[[int], None], starts: Iterable[int]) -> None:
        """Have `work` done for all starts; what it raises is raised."""
        left = iter(starts)  # threads take from it in turn: a task for each would take as long as the work

        def some(_: int) -> None:
            for start in left:
                work(start)

        for _ in self._pool.map(some, range(self._count)):
            pass

    def memory(self, size: int) -> NDArray[np.uint8]:
        """At least so many bytes of the thread that asks, the same as before: new pages take as long as reading."""
        if getattr(self._own, "memory", np.empty(0)).size < size:
            self._own.memory = np.empty(size, np.uint8)
        found: NDArray[np.uint8] = self._own.memory
        return found

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def move(
    kind: int,
    shape: tuple[int, ...],
    order: NDArray[np.int64] | None,
    view: MatrixView,
    read: Reader,
    workers: Workers,
) -> None:
    """Lay a tensor of a type in MOVED out in tiles.

    Args:
        kind: Its type.
        shape: Its dimensions; rows are those of all but the last.
        order: Which row of the tensor each row of the tiles is; None where it is the same.
        view: The tiles.
        read: Reads the tensor.
        workers: Who does it.
    """
    from ggq_kernels.quantize.repack import SPARE

    block = TYPES[kind]
    blocks = shape[-1] // block.numbers
    row_bytes, rows = blocks * block.bytes, int(np.prod(shape[:-1]))
    repacking = repacker_of(kind).into(blocks, view.tiled)
    whole = rows // TILE_ROWS * TILE_ROWS
    step = max(1, CHUNK_BYTES // row_bytes // TILE_ROWS) * TILE_ROWS
    everything = None
    if order is not None:
        everything = np.empty(rows * row_bytes + 2 * SPARE, np.uint8)
        read(0, everything[SPARE:-SPARE])

    def chunk(start: int) -> None:
        stop = min(start + step, whole)
        if everything is None:
            data, places = workers.memory(step * row_bytes + 2 * SPARE), np.arange(stop - start, dtype=np.int64)
            read(start * row_bytes, data[SPARE:][: (stop - start) * row_bytes])
        else:
            assert order is not None
            data, places = everything, order[start:stop]
        repacking.run(data.ctypes.data + SPARE + places * row_bytes, start // TILE_ROWS)

    workers.run(chunk, range(0, whole, step))
    last = MATRICES[kind](_rows(read, order, range(whole, rows), row_bytes, block.bytes))
    if whole < rows:
        pack_rows(last, view, whole // TILE_ROWS)
    for place, values in zip(view.shared, (last.codebook,) if last.codebook is not None else (), strict=True):
        place[...] = values


def _rows(
    read: Reader, order: NDArray[np.int64] | None, rows: Sequence[int], row_bytes: int, block_bytes: int
) -> NDArray[np.uint8]:
    """Blocks of some rows of the tiles, at least of one."""
    places: list[Any] = [row if order is None else int(order[row]) for row in rows] or [0]
    found = np.empty((len(places), row_bytes), np.uint8)
    for row, out in zip(places, found, strict=True):
        read(row * row_bytes, out)
    return found.reshape(len(places), -1, block_bytes)
