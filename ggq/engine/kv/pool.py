"""A bounded pool of cache pages: memory for a fixed number of positions, which sequences that agree share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ggq.errors import UsageError

ALIGNMENT = 64


class Page:
    """Memory for some positions of one sequence in all caches of a group.

    Args:
        group: Index of the group.
        size: Bytes.
    """

    __slots__ = ("address", "group", "memory", "users")

    def __init__(self, group: int, size: int) -> None:
        raw = np.zeros(size + ALIGNMENT, np.uint8)  # the system gives zeros when a byte is first touched
        start = -raw.ctypes.data % ALIGNMENT
        self.memory = raw[start : start + size]
        self.address = int(self.memory.ctypes.data)
        self.group, self.users = group, 1


class PoolFull(UsageError):
    """A page was asked for and the pool's limit leaves no room for it."""


class PagePool:
    """Pages of all groups under one limit; a page is reused once no sequence refers to it.

    Args:
        page_bytes: Bytes of a page of each group.
        limit: Most bytes of all pages together.
    """

    def __init__(self, page_bytes: Sequence[int], limit: int) -> None:
        self.page_bytes = tuple(-(-size // ALIGNMENT) * ALIGNMENT for size in page_bytes)
        self.limit = limit
        self.used = 0
        """Bytes of pages that sequences refer to."""
        self._free: list[list[Page]] = [[] for _ in page_bytes]
        self._idle = 0  # bytes of the pages in _free

    @property
    def room(self) -> int:
        """Bytes of pages that can still be handed out."""
        return self.limit - self.used

    def check(self, size: int) -> None:
        """Refuse what does not fit.

        Raises:
            PoolFull: Fewer than `size` bytes can be handed out.
        """
        if size > self.room:
            raise self._full(size)

    def take(self, group: int) -> Page:
        """A page for one user; what it holds is unspecified, but every number in it was written by a kernel or is 0.

        Raises:
            PoolFull: The limit or the system's memory is reached.
        """
        size = self.page_bytes[group]
        self.check(size)
        if self._free[group]:
            page = self._free[group].pop()
            self._idle -= size
            page.users = 1
        else:
            self._trim(self.room - size)
            try:
                page = Page(group, size)
            except MemoryError:
                raise self._full(size) from None
        self.used += size
        return page

    def share(self, page: Page) -> Page:
        """Count one more user of a page."""
        page.users += 1
        return page

    def drop(self, page: Page) -> None:
        """Count one user of a page less; without any it is free."""
        page.users -= 1
        if page.users == 0:
            size = self.page_bytes[page.group]
            self.used -= size
            self._idle += size
            self._free[page.group].append(page)

    def close(self) -> None:
        """Release all memory that no sequence refers to; nothing can be taken any more."""
        self._trim(0)
        self.limit = 0

    def _trim(self, most: int) -> None:
        """Release free pages until at most so many bytes of them are left."""
        for pages in self._free:
            while pages and self._idle > most:
                self._idle -= self.page_bytes[pages.pop().group]

    def _full(self, size: int) -> PoolFull:
        return PoolFull(
            f"the cache is full: {self.used} of {self.limit} bytes are in use and {size} more are needed",
            fix="close sequences, or allow more memory for the cache",
        )
