"""Prefix reuse: a prompt begins with what another sequence has computed of the same tokens.

Tokens are taken in blocks, and the digest of a block includes the one before it, so equal digests mean equal prefixes.
Sequences that are being computed are found too, and those that have ended are kept until their memory is needed. Pages
are shared by `Executor.fork` and copied when written, so a kept sequence whose pages others use costs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from ggq.tape.executor import Executor

BLOCK = 32
"""Tokens of a block; shorter common prefixes are computed again."""
MOST_KEPT = 256
"""Sequences that are kept after they ended: bounds what is kept besides pages, a list of tokens each."""


class Holder(Protocol):
    """A sequence in the cache and the tokens that are wanted of it."""

    sequence: int | None
    tokens: list[int]
    computed: int


class Kept:
    """A sequence that has ended.

    Args:
        sequence: Its id in the executor.
        tokens: What it holds.
    """

    def __init__(self, sequence: int, tokens: list[int]) -> None:
        self.sequence: int | None = sequence
        self.tokens, self.computed = tokens, len(tokens)


class Prefixes:
    """Finds sequences that begin as a prompt does.

    Args:
        executor: Whose sequences they are.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._blocks: dict[Holder, list[bytes]] = {}
        self._holders: dict[bytes, dict[Holder, None]] = {}
        self._kept: dict[Kept, None] = {}  # those unused longest first
        self.hits = self.queries = 0
        """Tokens of prompts that were found, and that were asked for."""

    @property
    def kept(self) -> int:
        """How many sequences are kept."""
        return len(self._kept)

    def enter(self, holder: Holder) -> None:
        """Let a sequence be found by the tokens that it has now."""
        if holder not in self._blocks:
            self._blocks[holder] = found = list(digests(holder.tokens))
            for digest in found:
                self._holders.setdefault(digest, {})[holder] = None

    def leave(self, holder: Holder) -> None:
        """Let it be found no more."""
        for digest in self._blocks.pop(holder, ()):
            others = self._holders[digest]
            del others[holder]
            if not others:
                del self._holders[digest]

    def find(self, tokens: Sequence[int]) -> tuple[Holder, int, int] | None:
        """The best prefix of a prompt, without its last token, whose logits are wanted in any case.

        Returns:
            A sequence, how many tokens it has in common with the prompt, and how many of those are computed; None
            without a common block. The longest common prefix wins, and of several sequences that have it the one of
            which most is computed.
        """
        tokens, total = tokens[:-1], len(tokens)
        for digest in reversed(list(digests(tokens))):
            holders = [each for each in self._holders.get(digest, ()) if self._serves(each, total)]
            if holders:
                measured = [(common_length(each.tokens, tokens), each) for each in holders]
                common, best = max(measured, key=lambda pair: (min(pair[0], pair[1].computed), pair[0]))
                return best, common, min(common, best.computed)
        return None

    def _serves(self, holder: Holder, total: int) -> bool:
        """Whether what a sequence holds is what a text of so many tokens begins with."""
        return holder.sequence is None or self._executor.serves(holder.sequence, total)

    def take(self, holder: Holder, length: int) -> tuple[int, int]:
        """A new sequence that holds the first tokens of another one.

        Returns:
            Its id, and how many tokens it holds: `length`, or fewer where the executor cannot go back to that.
        """
        assert holder.sequence is not None
        sequence = self._executor.fork(holder.sequence)
        if isinstance(holder, Kept):
            del self._kept[holder]
            self._kept[holder] = None
        return sequence, self._executor.truncate(sequence, length)

    def keep(self, sequence: int, tokens: list[int]) -> None:
        """Keep a sequence that has ended; one that is too short is closed."""
        if len(tokens) < BLOCK:
            self._executor.close_sequence(sequence)
            return
        kept = Kept(sequence, tokens)
        self.enter(kept)
        self._kept[kept] = None
        if len(self._kept) > MOST_KEPT:
            self.forget_one()

    def forget_one(self) -> bool:
        """Close the kept sequence that was not used for longest; False where there is none."""
        for kept in self._kept:
            del self._kept[kept]
            self.leave(kept)
            assert kept.sequence is not None
            self._executor.close_sequence(kept.sequence)
            return True
        return False


def digests(tokens: Sequence[int]) -> Iterator[bytes]:
    """The chained digests of the whole blocks of some tokens."""
    data, last, size = np.asarray(tokens, np.int32).tobytes(), b"", 4 * BLOCK
    for start in range(0, len(data) - size + 1, size):
        last = hashlib.blake2b(last + data[start : start + size], digest_size=16).digest()
        yield last


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    low, high = 0, most  # one[:low] is equal, one[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low
