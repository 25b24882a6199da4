"""How many tokens of prompts go into a step beside sequences that decode: a step that is longer makes those wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

BESIDE = 64
"""Tokens of prompts in a step that also computes next tokens, which wait for it meanwhile: about the fewest that are
multiplied as fast as many."""

ROWS = 8
"""Tokens that products take at once: a step of 10 costs what one of 16 does."""

PROBE = 64
"""After so many mixed steps one without prompts measures how long those that decode would take alone."""

MARGIN = 1.1
"""How much more than its share is aimed at: steps vary."""

LONGEST = 4.0
"""How many times the mean step a mixed one lasts at most: what else would be the wait for a single token?"""

SHORTER = 0.9
"""Share of the fastest rate of prompts that is enough, if the steps are shorter."""

DEBT = 8.0
"""Mean steps by which those that decode can be behind their share and are given it back: a step that was long because
the machine did something else at that moment should not stop all prompts."""

APART = 0.75
"""Numbers of sequences between which a step's time is taken from those of both: this share at least of one another."""

SLOWER = 1.02
"""How much slower one step lets a step without prompts seem: what else the machine does at that moment is left out."""

NEWS = 0.25
"""Share of the latest mixed step in what such steps are known to take."""


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
    """As many as let sequences that decode keep a share of their rate, in the mean of steps with prompts and without.

    The time of a step grows in stairs, since products take ROWS tokens at once. So mixed steps have the size that
    reads prompts fastest, and as many steps without prompts follow as the share asks for.

    Args:
        share: Of the rate that they would have without prompts, above 0 and at most 1.
        most: Tokens of prompts in a step at most.
    """

    def __init__(self, share: float = 0.5, most: int = 512) -> None:
        self.share, self.most = share, most
        self._alone: dict[int, float] = {}  # seconds of a step without prompts, by sequences that decode
        self._since: dict[int, int] = {}  # mixed steps since that was measured
        self._mixed: dict[int, float] = {}  # seconds of a step with prompts, by its tokens / ROWS, rounded up
        self._owed = 0.0  # seconds by which steps were longer than the share allows; below 0 what they have left

    def beside(self, decoding: int) -> int:
        """See `Pace`."""
        alone = self._expected(decoding)
        if alone is None or self._since.get(decoding, 0) >= PROBE:
            return 0
        if not self._mixed:
            return min(self.most, BESIDE)
        return self._quickest(decoding, alone) if self._owed <= 0 else self._free(decoding, alone)

    def observe(self, decoding: int, prompts: int, seconds: float) -> None:
        """See `Pace`."""
        if not decoding:
            return
        if prompts:
            size = -(-(decoding + prompts) // ROWS)
            self._mixed[size] = (1 - NEWS) * self._mixed.get(size, seconds) + NEWS * seconds
            self._since[decoding] = self._since.get(decoding, 0) + 1
        else:
            self._alone[decoding] = min(seconds, SLOWER * self._alone.get(decoding, seconds))
            self._since[decoding] = 0
        alone = self._expected(decoding)
        if alone is not None:
            mean = self._mean(alone)
            self._owed = min(max(-mean, self._owed + seconds - mean), DEBT * mean)

    def _mean(self, alone: float) -> float:
        """Seconds that a step lasts in the mean where those that decode keep just their share."""
        return alone / min(1.0, MARGIN * self.share)

    def _expected(self, decoding: int) -> float | None:
        """Seconds of a step without prompts: measured, or between the times of a few less and a few more."""
        if decoding in self._alone:
            return self._alone[decoding]
        fewer = max((count for count in self._alone if APART * decoding <= count < decoding), default=None)
        more = min((count for count in self._alone if decoding < count <= decoding / APART), default=None)
        return None if fewer is None or more is None else between(self._alone, fewer, more, decoding)

    def _quickest(self, decoding: int, alone: float) -> int:
        """The tokens with which prompts are read fastest, the steps without prompts that follow counted."""
        mean = self._mean(alone)
        spare = max(mean - alone, 0.01 * alone)
        found = dict[int, float]()  # tokens of prompts a second, by those of a mixed step
        for size in range(decoding // ROWS + 1, -(-(decoding + self.most) // ROWS) + 1):
            tokens, seconds = min(self.most, size * ROWS - decoding), self._taken(size)
            if found and seconds > LONGEST * mean:
                break
            found[tokens] = tokens / (seconds + alone * max(0.0, seconds - mean) / spare)
        return min(tokens for tokens, rate in found.items() if rate >= SHORTER * max(found.values()))

    def _free(self, decoding: int, alone: float) -> int:
        """The tokens that fill the last rows of those that decode, where that costs nothing."""
        size = -(-decoding // ROWS)
        return min(self.most, size * ROWS - decoding) if self._taken(size) <= SLOWER * alone else 0

    def _taken(self, size: int) -> float:
        """Seconds of a mixed step of a size: measured, or as of the nearest that were."""
        if size in self._mixed:
            return self._mixed[size]
        fewer = max((known for known in self._mixed if known < size), default=None)
        more = min((known for known in self._mixed if known > size), default=None)
        if fewer is not None and more is not None:
            return between(self._mixed, fewer, more, size)
        nearest = fewer if more is None else more
        assert nearest is not None
        return self._mixed[nearest] * size / nearest


def between(known: Mapping[int, float], fewer: int, more: int, count: int) -> float:
    """The value at `count`, on the line between those of two others."""
    part = (count - fewer) / (more - fewer)
    return (1 - part) * known[fewer] + part * known[more]
