"""The states of one sequence: what its layers carry from token to token, and earlier ones to go back to.

All states of a program are one page of the pool, since they belong to the same length. A kernel reads the page of the
present length and writes the one of the next, which may be the same page: then the earlier state is gone. It is kept,
and another page written, behind a run of several tokens (a prompt, a chunk of one, drafts that may be rejected) and
every SPACING tokens. Keys can be cut anywhere; states are cut back to the nearest one that was kept, from which the
tokens are computed again.
"""

from __future__ import annotations

from typing import NamedTuple

from ggq.engine.kv.policy import SPACING, least_useful, worth_keeping
from ggq.engine.kv.pool import Page, PagePool


class Kept(NamedTuple):
    """A state that can be gone back to.

    Args:
        length: Tokens that it covers.
        page: Where it is.
    """

    length: int
    page: Page


class SequenceStates:
    """The states of a sequence whose pages come from a pool.

    Args:
        pool: Where pages come from.
        group: The pool's group of pages of states.
    """

    def __init__(self, pool: PagePool, group: int) -> None:
        self._pool, self._group = pool, group
        self.length = 0
        """Tokens that the present state covers."""
        self.kept: list[Kept] = []
        """Earlier states, the shortest first."""
        self._page: Page | None = None  # None before the first token: zeros
        self._next: Page | None = None  # what the run that is set aside for writes
        self._ended_run = False  # whether the present state lies behind several tokens that were computed together
        self._running = False

    @property
    def source(self) -> int:
        """Address of the present state; 0 for zeros."""
        return 0 if self._page is None else self._page.address

    def target(self) -> int:
        """Address of the next state, which a kernel is about to write."""
        assert self._next is not None
        self._running = True
        return self._next.address

    def need(self) -> int:
        """Bytes that `reserve` must take from the pool."""
        shared = self._page is None or self._page.users > 1
        return self._pool.page_bytes[self._group] if self._next is None and shared else 0

    def reserve(self, tokens: int) -> None:
        """Hold a page for what comes after the next tokens.

        Raises:
            PoolFull: There is none; nothing was changed.
        """
        if self._next is not None:
            return
        page, size = self._page, self._pool.page_bytes[self._group]
        if page is None or page.users > 1 or (self._is_kept(tokens) and worth_keeping(self._pool, size)):
            self._next = self._pool.take(self._group)
        else:
            self._next = page

    def append(self, tokens: int) -> None:
        """Count tokens behind which a kernel has written the state."""
        before, after = self._page, self._next
        if before is not None and before is not after:
            if self._is_kept(tokens):
                self.kept.append(Kept(self.length, before))
            else:
                self._pool.drop(before)
        self._page, self._next, self._running = after, None, False
        self.length += tokens
        self._ended_run = tokens > 1
        place = least_useful([each.length for each in self.kept], self.length)
        if place is not None:
            self._pool.drop(self.kept.pop(place).page)

    def reachable(self, length: int) -> int:
        """The last length up to this one that can be gone back to."""
        if length >= self.length and not self._lost:
            return self.length
        return max((each.length for each in self.kept if each.length <= length), default=0)

    def truncate(self, length: int) -> None:
        """Go back to a length that is reachable."""
        lost = self._lost
        self._release_next()
        if length == self.length and not lost:
            return
        if self._page is not None:
            self._pool.drop(self._page)
        self._page, self.length = None, 0
        while self.kept and self.kept[-1].length > length:
            self._pool.drop(self.kept.pop().page)
        if length:
            self.length, self._page = self.kept.pop()
        self._ended_run = True

    def give_up(self) -> None:
        """Drop all earlier states."""
        while self.kept:
            self._pool.drop(self.kept.pop().page)

    def fork(self) -> SequenceStates:
        """The same states for another sequence; pages are shared until either goes on."""
        other = SequenceStates(self._pool, self._group)
        self._release_next()
        other.length, other._ended_run = self.length, self._ended_run
        other._page = None if self._page is None else self._pool.share(self._page)
        other.kept = [Kept(each.length, self._pool.share(each.page)) for each in self.kept]
        return other

    @property
    def _lost(self) -> bool:
        """Whether a run that was interrupted may have written over the present state."""
        return self._running and self._next is self._page

    def _is_kept(self, tokens: int) -> bool:
        last = self.kept[-1].length if self.kept else 0
        return tokens > 1 or self._ended_run or self.length - last >= SPACING

    def _release_next(self) -> None:
        if self._next is not None and self._next is not self._page:
            self._pool.drop(self._next)
        self._next, self._running = None, False
