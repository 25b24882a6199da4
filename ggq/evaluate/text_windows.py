"""Which tokens of a text are scored, and with how much text before them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from ggq.errors import UsageError

CONTEXT = 512
"""Tokens of a window by default; fewer where the model's context is shorter."""

LLAMA_CPP = "llama.cpp"
"""The recipe of llama.cpp's perplexity tool; see `ggq.evaluate.recipes`."""

PART_LOGITS = 1 << 22
"""Logits of one part, about: 16 MiB as float32, twice that as float64."""
PART_TOKENS = 1024
"""Tokens that are given to a model at once, about."""

Progress = Callable[[int, int], Any]
"""Called with the tokens scored so far and those in all."""


@dataclass(frozen=True)
class Windows:
    """Stretches of a text that are scored one by one.

    A window of `context` tokens begins every `stride` tokens of the text. Of each window the last
    min(stride, context - context // 2) tokens are scored, so that none is scored twice and each has at least half a
    window before it:

        stride = context        windows lie side by side, the second half of each is scored
        stride = context // 2   every token is scored (but the first half window's)
        stride smaller          the same with context - stride tokens or more before each; slower

    Args:
        ids: int32 (windows, context).
        stride: Tokens from the start of a window to the start of the next.
        recipe: "" for the rule above, or LLAMA_CPP, whose windows have one scored token less; others say `last`.
        last: How many tokens of each window are scored; 0 for as many as the recipe says.
    """

    ids: NDArray[np.int32]
    stride: int
    recipe: str = ""
    last: int = 0

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.ids)

    @property
    def context(self) -> int:
        """Tokens of a window."""
        return self.ids.shape[1]

    @property
    def scored(self) -> int:
        """Tokens of each window that are scored: its last ones."""
        if self.last:
            return self.last
        half = self.context - self.context // 2
        return half - 1 if self.recipe == LLAMA_CPP else min(self.stride, half)

    @property
    def tokens(self) -> int:
        """Tokens that are scored in all."""
        return self.count * self.scored

    @cached_property
    def targets(self) -> NDArray[np.int32]:
        """The scored tokens, int32 (tokens,)."""
        return np.ascontiguousarray(self.ids[:, self.context - self.scored :]).reshape(-1)

    @cached_property
    def digest(self) -> str:
        """BLAKE3 of all ids as little-endian 32-bit integers: the same for the same tokens in the same windows."""
        return blake3(np.ascontiguousarray(self.ids, "<i4").tobytes()).hexdigest()


def make_windows(
    ids: Sequence[int] | NDArray[np.integer],
    context: int = CONTEXT,
    stride: int | None = None,
    *,
    limit: int | None = None,
    begin: int | None = None,
    name: str | os.PathLike[str] | None = None,
) -> Windows:
    """Cut a text into windows.

    Args:
        ids: Token ids of the text; what is left behind the last whole window is not scored.
        context: Tokens of a window, at least 2.
        stride: See `Windows`; by default the context.
        limit: At most so many windows, the first ones.
        begin: A token that takes the place of each window's first one, for models that expect every text to begin with
            it; it is never scored.
        name: The text's file, for errors.

    Raises:
        UsageError: A number is out of range, or the text is shorter than a window.
    """
    stride = context if stride is None else stride
    for what, value, least in (("context", context, 2), ("stride", stride, 1), ("windows", limit, 1)):
        if value is not None and value < least:
            raise UsageError(f"{what} must be {least} or more, not {value}")
    if len(ids) < context:
        problem = f"the text has {len(ids)} tokens, fewer than one window of {context}"
        raise UsageError(problem, path=name, fix="give a longer text or a smaller --context")
    starts = range(0, len(ids) - context + 1, stride)[:limit]
    cut = np.array([ids[start : start + context] for start in starts], dtype=np.int32)
    if begin is not None:
        cut[:, 0] = begin
    return Windows(cut, stride)


class Part(NamedTuple):
    """A stretch of the scored tokens that is computed at once.

    Args:
        windows: Which windows: several whole ones, or one.
        scored: Which of each window's scored tokens.
        rows: Their places among all scored tokens.
    """

    windows: slice
    scored: slice
    rows: slice


def parts(windows: Windows, vocabulary: int) -> Iterator[Part]:
    """Cut windows into parts of bounded memory; the same for all models of one vocabulary."""
    room = max(1, PART_LOGITS // vocabulary)
    scored = windows.scored
    together = max(1, min(room // scored, PART_TOKENS // windows.context))
    step = min(room, scored)
    for first in range(0, windows.count, together):
        last = min(first + together, windows.count)
        for start in range(0, scored, step):
            stop = min(start + step, scored)
            begin, end = first * scored + start, (last - 1) * scored + stop
            yield Part(slice(first, last), slice(start, stop), slice(begin, end))


def report_progress(progress: Progress | None, done: int, windows: Windows) -> None:
    """Report progress to whoever watches."""
    if progress is not None:
        progress(done, windows.tokens)
