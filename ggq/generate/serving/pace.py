"""How many tokens of prompts go into a step beside sequences that decode: a step that is longer makes those wait."""

from __future__ import annotations

from typing import Protocol

BESIDE = 64
"""Tokens of prompts in a step that also computes next tokens, which wait for it meanwhile: about the fewest that are
multiplied as fast as many."""
FEWEST = 2
"""Tokens of prompts beside next tokens at least, so that they end; 8 beside one take 2.3 times as long as one alone."""
PROBE = 64
"""After so many mixed steps one without prompts measures how long those that decode would take alone."""

MARGIN = 1.15
"""How much more than its share is aimed at: steps vary, and a mean just at the share was .44 where .5 was asked for."""
SLOWER = 1.02
"""How much slower one step lets a step without prompts seem: what else the machine does at that moment is left out."""


class Pace(Protocol):
    """Decides how much of prompts a step takes along."""

    def beside(self, decoding: int) -> int:
        """Tokens of prompts beside so many sequences that decode; 0 for a step without any."""
        ...

    def observe(self, decoding: int, prompts: int, seconds: float) -> None:
        """Learn how long a step took with so many sequences that decode and so many tokens of prompts."""
        ...


class Fixed:
    """Always as many."""

    def beside(self, decoding: int) -> int:
        """See `Pace`."""
        return BESIDE

    def observe(self, decoding: int, prompts: int, seconds: float) -> None:
        """See `Pace`."""


class Measured:
    """As many as let sequences that decode keep a share of their rate.

    Args:
        share: Of the rate that they would have without prompts, above 0 and at most 1.
        most: Tokens of prompts in a step at most.
    """

    def __init__(self, share: float = 0.5, most: int = 512) -> None:
        self.share, self.most = share, most
        self._alone: dict[int, float] = {}  # seconds of a step without prompts, by size
        self._since: dict[int, int] = {}  # mixed steps since that was measured
        self._tokens: dict[int, float] = {}

    def beside(self, decoding: int) -> int:
        """See `Pace`."""
        size = decoding.bit_length()
        if size not in self._alone or self._since[size] >= PROBE:
            return 0
        return int(self._tokens.get(size, BESIDE))

    def observe(self, decoding: int, prompts: int, seconds: float) -> None:
        """See `Pace`; after a step that was too long the next takes fewer along, after a short one more."""
        size = decoding.bit_length()
        if not decoding:
            return
        if not prompts:
            known = self._alone.get(size, seconds)
            self._alone[size] = min(seconds, SLOWER * known)
            self._since[size] = 0
            return
        if size not in self._alone:
            return
        self._since[size] += 1
        room = self._alone[size] / (min(1.0, MARGIN * self.share) * max(seconds, 1e-9))
        now = self._tokens.get(size, BESIDE)
        if room < 1 or prompts >= now // 1:  # a step that was not full says nothing of a larger one
            now *= min(1.1, max(0.5, room))
        self._tokens[size] = min(float(self.most), max(float(FEWEST), now))
