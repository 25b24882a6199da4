"""One sequence in the cache: its pages in every group, and how many tokens they hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ggq.engine.kv.policy import first_page, page_count, reachable
from ggq.engine.kv.pool import Page, PagePool
from ggq.engine.kv.states import SequenceStates


class PagedSequence:
    """A sequence whose pages come from a pool.

    `tables` is int64 (groups, pages): the addresses of its pages as the kernels read them, 0 where a window has passed.
    Its memory moves when it grows, so addresses of its rows hold until the next `reserve`.

    Args:
        pool: Where pages come from.
        windows: For each group how many positions a token sees; 0 for all.
        positions: Positions of a page.
        states: Whether the pool's last group, behind those with windows, is of states that the sequence keeps too.
    """

    def __init__(self, pool: PagePool, windows: Sequence[int], positions: int, states: bool = False) -> None:
        self._pool, self._windows, self._positions = pool, tuple(windows), positions
        self.states = SequenceStates(pool, len(self._windows)) if states else None
        self.length = 0
        """Tokens that it holds."""
        self.long = False
        """Whether they are of a long text; see `ggq.tape.program.Inputs.short_context`."""
        self.tables = np.zeros((len(self._windows), 0), np.int64)
        self._pages: list[list[Page]] = [[] for _ in self._windows]  # those from _first on
        self._first = [0] * len(self._windows)
        self._writable = 0  # up to this length all pages from the next token's on are there and its own
        self.addresses: tuple[int, ...] = ()
        """Address of each group's table."""

    def need(self, tokens: int) -> int:
        """Bytes that `reserve` would take from the pool."""
        end, total = page_count(self.length + tokens, self._positions), 0
        for group, pages in enumerate(self._pages):
            count = max(0, end - self._first[group] - len(pages)) + self._shared(group)
            total += count * self._pool.page_bytes[group]
        return total if self.states is None else total + self.states.need()

    def reserve(self, tokens: int) -> None:
        """Hold pages of its own for so many tokens behind those that it has.

        Raises:
            PoolFull: There are not enough; nothing was changed.
        """
        if self.states is not None and self.need(tokens) > self._pool.room:
            self.states.give_up()
        if self.length + tokens > self._writable:
            self._pool.check(self.need(tokens))
            self._take_pages(tokens)
        if self.states is not None:
            self.states.reserve(tokens)  # may take more than it needs, and therefore comes last

    def _take_pages(self, tokens: int) -> None:
        end = page_count(self.length + tokens, self._positions)
        taken: list[Page] = []
        try:
            for group, pages in enumerate(self._pages):
                missing = end - self._first[group] - len(pages) + self._shared(group)
                taken.extend(self._pool.take(group) for _ in range(missing))
        except BaseException:
            for page in taken:
                self._pool.drop(page)
            raise
        for group, pages in enumerate(self._pages):
            mine = [page for page in taken if page.group == group]
            if self._shared(group):
                pages[self._place(group)] = self._copied(pages[self._place(group)], mine.pop())
            pages.extend(mine)
        self._writable = end * self._positions
        self._write_tables()

    def append(self, tokens: int) -> None:
        """Count so many tokens, whose keys, values and states were written; frees what windows have passed."""
        self.length += tokens
        if self.states is not None:
            self.states.append(tokens)
        for group, window in enumerate(self._windows):
            while window and self._first[group] < first_page(self.length, window, self._positions):
                self.tables[group, self._first[group]] = 0
                self._pool.drop(self._pages[group].pop(0))
                self._first[group] += 1

    def truncate(self, length: int) -> int:
        """Forget the tokens behind the first `length`.

        Returns:
            Tokens that it holds now: `length`, or fewer where no state was kept of that, or 0 where a window has freed
            what the token behind it would see.
        """
        length = min(length, self.length)
        if self.states is not None:
            length = self.states.reachable(length)
        for group, window in enumerate(self._windows):
            if not reachable(length, window, self._first[group], self._positions):
                length = 0
        if self.states is not None:
            self.states.truncate(length)
        self.length, self._writable, end = length, 0, page_count(length, self._positions)
        for group, pages in enumerate(self._pages):
            while pages and self._first[group] + len(pages) > end:
                self._pool.drop(pages.pop())
            if not length:
                self._first[group] = 0
        return length

    def fork(self) -> PagedSequence:
        """Another sequence that holds the same tokens; it shares pages until either writes into one."""
        other = PagedSequence(self._pool, self._windows, self._positions)
        other.states = None if self.states is None else self.states.fork()
        other.length, other._first, self._writable = self.length, list(self._first), 0
        other.long = self.long
        end = page_count(self.length, self._positions)  # pages beyond were reserved and hold nothing
        for group, pages in enumerate(self._pages):
            other._pages[group] = [self._pool.share(page) for page in pages[: end - self._first[group]]]
        other._write_tables()
        return other

    def close(self) -> None:
        """Give all pages back."""
        self.truncate(0)

    def _place(self, group: int) -> int:
        """Where the page of the next token is, or would be, in the list of a group."""
        return self.length // self._positions - self._first[group]

    def _shared(self, group: int) -> bool:
        """Whether the next token goes into a page that others read."""
        place, pages = self._place(group), self._pages[group]
        return place < len(pages) and pages[place].users > 1

    def _copied(self, page: Page, copy: Page) -> Page:
        np.copyto(copy.memory, page.memory)
        self._pool.drop(page)
        return copy

    def _write_tables(self) -> None:
        most = max((first + len(pages) for first, pages in zip(self._first, self._pages)), default=0)
        if most > self.tables.shape[1]:
            self.tables = np.zeros((len(self._pages), max(8, most, 2 * self.tables.shape[1])), np.int64)
            self.addresses = tuple(int(row.ctypes.data) for row in self.tables)
        for group, (first, pages) in enumerate(zip(self._first, self._pages)):
            self.tables[group, first : first + len(pages)] = [page.address for page in pages]


def cost(pool: PagePool, windows: Sequence[int], positions: int, tokens: int) -> int:
    """Bytes that a new sequence of so many tokens takes, once they are computed; of states those that it must have."""
    end, total = page_count(tokens, positions), sum(pool.page_bytes[len(windows) :])
    for group, window in enumerate(windows):
        total += (end - first_page(tokens, window, positions)) * pool.page_bytes[group]
    return total
