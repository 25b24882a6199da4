"""What a model thinks before it answers: where that begins and ends, and how much of it there may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np


class Tags(NamedTuple):
    """The texts around thoughts."""

    begin: str
    end: str


KNOWN = (
    Tags("<think>", "</think>"),
    Tags("<seed:think>", "</seed:think>"),
    Tags("[THINK]", "[/THINK]"),
    Tags("<|channel>thought", "<channel|>"),
)


def tags_of(template: str) -> Tags | None:
    """The tags that a chat template knows."""
    return next((tags for tags in KNOWN if tags.end in template), None)


class Constraint(Protocol):
    """See `ggq.generate.grammar.Constraint`."""

    @property
    def over(self) -> bool:
        """Whether nothing can follow."""
        ...

    def masked(self, logits: np.ndarray) -> np.ndarray:
        """Logits without what must not follow."""
        ...

    def accept(self, token: int) -> None:
        """Go on with a token."""
        ...


class AfterThinking:
    """What must be matched behind thoughts; of those there may be so many tokens.

    Args:
        inner: Heeded once thoughts have ended; None lets anything follow.
        end: The tokens that end thoughts.
        budget: Tokens of thought; then their end is written. None for as many as the model likes.
        closing: The tokens that are written then, `end` among them.
    """

    def __init__(
        self, inner: Constraint | None, end: Sequence[int], budget: int | None, closing: Sequence[int] = ()
    ) -> None:
        self._inner, self._end, self._budget = inner, list(end), budget
        self._closing = list(closing or end)
        self._last: list[int] = []
        self._thought = 0
        self._forced = 0
        self._thinking = True

    @property
    def over(self) -> bool:
        """See `Constraint`."""
        return not self._thinking and self._inner is not None and self._inner.over

    def masked(self, logits: np.ndarray) -> np.ndarray:
        """See `Constraint`."""
        if not self._thinking:
            return logits if self._inner is None else self._inner.masked(logits)
        if self._budget is None or self._thought < self._budget:
            return logits
        only = np.full_like(logits, -np.inf)
        only[self._closing[self._forced]] = 0
        return only

    def accept(self, token: int) -> None:
        """See `Constraint`."""
        if not self._thinking:
            if self._inner is not None:
                self._inner.accept(token)
            return
        if self._budget is not None and self._thought >= self._budget:
            self._forced += 1
        self._thought += 1
        self._last = [*self._last, token][-len(self._end) :]
        self._thinking = self._forced < len(self._closing) if self._forced else self._last != self._end


Begun = Callable[[Sequence[int]], "bool | None"]
"""See `ThinkingBudget`."""


def begun_by(begin: str, decode: Callable[[Sequence[int]], str]) -> Begun:
    """Whether the text of tokens begins with a text, however it is cut into tokens.

    Args:
        begin: The text.
        decode: The text of tokens, special ones included.
    """

    def begun(tokens: Sequence[int]) -> bool | None:
        text = decode(tokens)
        return True if text.startswith(begin) else None if begin.startswith(text) else False

    return begun


class ThinkingBudget:
    """Ends thoughts that the answer itself begins, after so many tokens.

    Args:
        inner: What must be matched, thoughts included; None lets anything follow.
        begun: Whether the tokens of an answer so far begin thoughts; None where that is not certain yet.
        end: The tokens that end them.
        budget: Tokens of thought.
        closing: The tokens that are written then, `end` among them.
    """

    def __init__(
        self, inner: Constraint | None, begun: Begun, end: Sequence[int], budget: int, closing: Sequence[int]
    ) -> None:
        self._inner, self._begun = inner, begun
        self._thoughts = AfterThinking(None, end, budget, closing)
        self._first, self._thinking, self._certain = list[int](), False, False

    @property
    def over(self) -> bool:
        """See `Constraint`."""
        return self._inner is not None and self._inner.over

    def masked(self, logits: np.ndarray) -> np.ndarray:
        """See `Constraint`."""
        logits = logits if self._inner is None else self._inner.masked(logits)
        return self._thoughts.masked(logits) if self._thinking else logits

    def accept(self, token: int) -> None:
        """See `Constraint`."""
        if self._inner is not None:
            self._inner.accept(token)
        if self._thinking:
            self._thoughts.accept(token)
        elif not self._certain:
            self._first.append(token)
            found = self._begun(self._first)
            self._thinking, self._certain = bool(found), found is not None
