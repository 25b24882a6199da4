"""Pages of the key-value cache: memory for a fixed number of positions of one sequence, handed out and taken back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

ALIGNMENT = 64


@dataclass
class PagedSequence:
    """One sequence: the tokens it holds and its pages.

    Args:
        length: Tokens.
        pages: Addresses of its pages.
        table: The same as int64, as the kernels read them.
        address: Of the table.
    """

    length: int = 0
    pages: list[int] = field(default_factory=list)
    table: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    address: int = 0


class PagePool:
    """Pages of equal size, allocated in growing chunks and reused.

    Args:
        page_bytes: Bytes of a page, for all layers.
        positions: Positions that a page holds.
    """

    def __init__(self, page_bytes: int, positions: int) -> None:
        self.page_bytes, self.positions = -(-page_bytes // ALIGNMENT) * ALIGNMENT, positions
        self._chunks: list[np.ndarray] = []
        self._free: list[int] = []

    def reserve(self, sequence: PagedSequence, length: int) -> None:
        """Give a sequence the pages that `length` tokens need."""
        needed = -(-length // self.positions)
        if needed <= len(sequence.pages):
            return
        while len(sequence.pages) < needed:
            sequence.pages.append(self._page())
        if needed > len(sequence.table):
            sequence.table = np.zeros(max(8, needed, 2 * len(sequence.table)), np.int64)
            sequence.address = int(sequence.table.ctypes.data)
        sequence.table[: len(sequence.pages)] = sequence.pages

    def release(self, sequence: PagedSequence) -> None:
        """Take the pages of a sequence back."""
        self._free.extend(sequence.pages)
        sequence.pages.clear()
        sequence.length = 0

    def _page(self) -> int:
        if not self._free:
            count = max(1, min(8, len(self._chunks)))
            # Zeroed: masked positions weigh nothing, but nothing times the NaN of stale memory is NaN.
            chunk = np.zeros(count * self.page_bytes + ALIGNMENT, np.uint8)
            self._chunks.append(chunk)
            first = chunk.ctypes.data + -chunk.ctypes.data % ALIGNMENT
            self._free = [first + i * self.page_bytes for i in reversed(range(count))]
        return self._free.pop()
