"""The pool of pages and the sequences in it: what is shared, copied, freed, refused."""

from __future__ import annotations

import numpy as np
import pytest

from ggq.engine.kv.policy import SLACK, first_page
from ggq.engine.kv.pool import PagePool, PoolFull
from ggq.engine.kv.sequence import PagedSequence, cost
from ggq.errors import UsageError

P = 4
"""Positions of a page in these tests."""


class Cache:
    """Sequences of token ids, kept in the pages themselves as a kernel would write them: one byte a position.

    Args:
        limit: Bytes of the pool; a page of either group takes 64.
        windows: Of its two groups.
    """

    def __init__(self, limit: int, windows: tuple[int, int] = (0, 0)) -> None:
        self.pool = PagePool([P, P], limit)
        self.windows = windows

    def open(self) -> PagedSequence:
        return PagedSequence(self.pool, self.windows, P)

    def append(self, sequence: PagedSequence, tokens: list[int]) -> None:
        sequence.reserve(len(tokens))
        for position, token in enumerate(tokens, sequence.length):
            for group in range(2):
                self.page(sequence, group, position)[position % P] = token
        sequence.append(len(tokens))

    def page(self, sequence: PagedSequence, group: int, position: int) -> np.ndarray:
        address = sequence.tables[group, position // P]
        assert sequence.addresses[group] == sequence.tables[group].ctypes.data
        return next(page.memory for page in sequence._pages[group] if page.address == address)

    def read(self, sequence: PagedSequence, group: int = 0, start: int = 0) -> list[int]:
        return [int(self.page(sequence, group, i)[i % P]) for i in range(start, sequence.length)]


def test_sequences_hold_what_was_appended_in_every_group() -> None:
    cache = Cache(1 << 20)
    one, other = cache.open(), cache.open()
    for part in ([1, 2, 3], [4], [5, 6, 7, 8, 9, 10]):
        cache.append(one, part)
        cache.append(other, [10 * token for token in part])
    for group in range(2):
        assert cache.read(one, group) == list(range(1, 11))
        assert cache.read(other, group) == list(range(10, 101, 10))
    assert cache.pool.used == 2 * 2 * 3 * 64
    one.close()
    other.close()
    assert cache.pool.used == 0 and cache.pool.room == 1 << 20


def test_forks_share_pages_until_one_writes() -> None:
    cache = Cache(1 << 20)
    one = cache.open()
    cache.append(one, [1, 2, 3, 4, 5])
    before = cache.pool.used
    other = one.fork()
    assert cache.pool.used == before and cache.read(other) == [1, 2, 3, 4, 5]
    cache.append(other, [6])
    assert cache.pool.used == before + 2 * 64  # the page that is not full, in both groups
    cache.append(one, [7, 8, 9])
    third = other.fork()
    other.close()
    assert (cache.read(one), cache.read(third)) == ([1, 2, 3, 4, 5, 7, 8, 9], [1, 2, 3, 4, 5, 6])
    one.close()
    third.close()
    assert cache.pool.used == 0


def test_forks_of_full_pages_and_of_reserved_ones_share_nothing_that_is_written() -> None:
    cache = Cache(1 << 20)
    one = cache.open()
    cache.append(one, [1, 2, 3, 4])
    one.reserve(9)
    other = one.fork()
    cache.append(one, list(range(5, 13)))
    cache.append(other, list(range(50, 58)))
    assert cache.read(one) == list(range(1, 13)) and cache.read(other) == [1, 2, 3, 4, *range(50, 58)]


@pytest.mark.parametrize("length", range(11))
def test_a_sequence_goes_on_from_where_it_was_cut(length: int) -> None:
    cache = Cache(1 << 20)
    one = cache.open()
    cache.append(one, list(range(10)))
    other = one.fork()
    assert one.truncate(length) == length == one.length
    assert cache.pool.used == 2 * 3 * 64
    cache.append(one, [99, 98, 97, 96, 95])
    assert cache.read(one) == [*range(length), 99, 98, 97, 96, 95]
    assert cache.read(other) == list(range(10))
    other.close()
    assert one.truncate(100) == length + 5
    assert cache.pool.used == 2 * -(-(length + 5) // P) * 64


def test_a_window_frees_what_it_has_passed_and_no_more() -> None:
    """Of 500 positions a window of 10 keeps those that the next token sees and SLACK before them, in whole pages."""
    cache = Cache(1 << 20, (0, 10))
    one = cache.open()
    for token in range(500):
        cache.append(one, [token % 250])
        kept = one.length - 10 + 1 - SLACK
        first = max(0, kept) // P
        assert (one.tables[1, :first] == 0).all() and (one.tables[1, first : one.length // P] != 0).all()
        assert cache.read(one, 1, first * P) == [i % 250 for i in range(first * P, one.length)]
    assert cache.read(one) == [i % 250 for i in range(500)]
    pages = 125 + (125 - (500 - 9 - SLACK) // P)
    assert cache.pool.used == pages * 64 == cost(cache.pool, cache.windows, P, 500)


def test_a_window_can_be_cut_back_as_far_as_it_keeps() -> None:
    cache = Cache(1 << 20, (0, 10))
    one = cache.open()
    cache.append(one, [token % 250 for token in range(500)])
    assert one.truncate(500 - SLACK) == 500 - SLACK
    assert cache.read(one, 1, 500 - SLACK - 9) == [i % 250 for i in range(500 - SLACK - 9, 500 - SLACK)]
    assert one.truncate(300) == 0 and cache.pool.used == 0
    cache.append(one, [1, 2, 3])
    assert cache.read(one, 0) == cache.read(one, 1) == [1, 2, 3]
    other = one.fork()
    cache.append(one, [token % 250 for token in range(3, 300)])
    assert cache.read(other, 1) == [1, 2, 3]


def test_first_page_is_before_what_the_next_token_sees() -> None:
    for window in (1, 5, 128, 200):
        for length in range(0, 700, 7):
            first = first_page(length, window, P)
            assert first * P <= max(0, length - window + 1 - SLACK) < (first + 1) * P
    assert first_page(10**6, 0, P) == 0


def test_a_full_pool_refuses_and_changes_nothing() -> None:
    cache = Cache(6 * 64)
    one, other = cache.open(), cache.open()
    cache.append(one, [1, 2, 3, 4, 5])
    assert (one.need(3), one.need(4), other.need(5)) == (0, 128, 256)
    with pytest.raises(PoolFull, match=r"full: 256 of 384 bytes are in use and 256 more are needed\nclose"):
        other.reserve(5)
    assert cache.pool.used == 256 and other.length == 0
    cache.append(other, [7, 8])
    fork = one.fork()
    with pytest.raises(UsageError, match="the cache is full"):
        fork.reserve(1)
    other.close()
    cache.append(fork, [6])
    assert cache.read(one) == [1, 2, 3, 4, 5] and cache.read(fork) == [1, 2, 3, 4, 5, 6]


def test_free_pages_of_one_group_make_room_for_another() -> None:
    pool = PagePool([64, 192], 384)
    pages = [pool.take(0) for _ in range(6)]
    for page in pages:
        pool.drop(page)
    more = [pool.take(1), pool.take(1)]
    assert pool.room == 0 and len(pool._free[0]) == 0
    with pytest.raises(PoolFull):
        pool.take(0)
    pool.drop(more.pop())
    assert pool.take(1).users == 1  # used again


def test_a_closed_pool_holds_no_memory() -> None:
    cache = Cache(1 << 20)
    one = cache.open()
    cache.append(one, [1, 2, 3])
    one.close()
    cache.pool.close()
    assert not any(cache.pool._free)
    with pytest.raises(PoolFull, match="the cache is full: 0 of 0 bytes"):
        one.reserve(1)


def test_a_random_history_is_that_of_lists() -> None:
    """Appends, cuts, forks and ends of many sequences in one small pool, against lists of tokens."""
    rng, cache = np.random.default_rng(5), Cache(120 * 64)
    alive: list[tuple[PagedSequence, list[int]]] = [(cache.open(), [])]
    refused = 0
    for _ in range(3000):
        sequence, tokens = alive[place := int(rng.integers(len(alive)))]
        what = rng.random()
        if what < 0.55:
            new = rng.integers(0, 250, int(rng.integers(1, 14))).tolist()
            try:
                cache.append(sequence, new)
                tokens.extend(new)
            except PoolFull:
                refused += 1
        elif what < 0.75:
            length = int(rng.integers(0, len(tokens) + 1))
            assert sequence.truncate(length) == length
            del tokens[length:]
        elif what < 0.9 and len(alive) < 12:
            alive.append((sequence.fork(), list(tokens)))
        elif len(alive) > 1:
            sequence.close()
            del alive[place]
        for one, expected in alive:
            assert cache.read(one, int(rng.integers(2))) == expected
    assert refused > 20
    for sequence, _ in alive:
        sequence.close()
    assert cache.pool.used == 0
