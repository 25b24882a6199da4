"""What the scheduler computes: a sequence with the tokens that are wanted of it, and what becomes of the logits."""

from __future__ import annotations

from collections import deque
from threading import Condition

import numpy as np

from ggq.errors import GGQError
from ggq.generate.finite import check_finite
from ggq.generate.generation import Answer, Likelihood, Memory, Piece, Timing, as_tokens, likelihoods
from ggq.tape.program import Run

SCORED = 64
"""Tokens of a prompt whose likelihoods are computed in one step: each has a row of logits."""
AHEAD = 16
"""Pieces of a stream that are computed before they are read, while others are computed anyway: streams of several
threads stay together in one pass although their readers come at different moments."""


class Request:
    """A sequence of which tokens are wanted in the cache; it is computed until `finished`.

    Args:
        tokens: Token ids, which may grow as they are computed.
        memory: A conversation to go on with.
    """

    shares_prefix = False
    """Whether it may begin with what another sequence has computed: it wants no logits of that part."""

    def __init__(self, tokens: list[int], memory: Memory | None = None) -> None:
        self.tokens, self.memory = list(tokens), memory
        self.client = ""
        """For whom it is: clients get even shares."""
        self.reused = 0
        """Tokens that another sequence had computed."""
        self.sequence: int | None = None
        """Its id in the executor; None before it is begun and after it was preempted."""
        self.computed = 0
        """How many of the tokens the sequence holds."""
        self.last_step = 0
        self.readers = 0
        """Threads that wait for it."""
        self.changed: Condition | None = None
        self.finished = self.cancelled = False
        self.error: Exception | None = None

    @property
    def pending(self) -> int:
        """Tokens wanted and not computed."""
        return len(self.tokens) - self.computed

    @property
    def done(self) -> bool:
        """Whether nothing more is wanted of it."""
        raise NotImplementedError

    @property
    def worth_keeping(self) -> bool:
        """Whether others may go on from what it has computed."""
        return False

    @property
    def news(self) -> bool:
        """Whether a reader need not wait."""
        raise NotImplementedError

    @property
    def hungry(self) -> bool:
        """Whether it takes part in a step for which it did not ask."""
        return True

    def next_run(self, most: int) -> Run:
        """Its next tokens, at most so many; the sequence is open."""
        raise NotImplementedError

    def receive(self, rows: np.ndarray, tokens: int, seconds: float) -> None:
        """Take the wanted logits of the run that was computed.

        Args:
            rows: float32 (wanted rows, vocabulary).
            tokens: Of the run.
            seconds: That the step took.
        """
        raise NotImplementedError

    def _run(self, count: int, logits: str) -> Run:
        assert self.sequence is not None
        part = as_tokens(self.tokens[self.computed : self.computed + count])
        return Run(self.sequence, part, logits, total=len(self.tokens))


class Writing(Request):
    """An answer that is being written: each computed token gives the next one.

    Args:
        answer: A fresh one.
        memory: See `Request`.
        whole: Whether it is read only once it is finished.
    """

    shares_prefix = True

    def __init__(self, answer: Answer, memory: Memory | None = None, *, whole: bool = False) -> None:
        super().__init__(answer.prompt, memory)
        self.answer, self.timing, self._whole = answer, Timing(), whole
        self.pieces: deque[Piece] = deque()
        """Not read yet."""
        self._done = False

    @property
    def done(self) -> bool:
        """See `Request`."""
        return self._done

    @property
    def worth_keeping(self) -> bool:
        """See `Request`: a prompt that was read to its end."""
        return self.error is None and self.computed >= len(self.answer.prompt)

    @property
    def news(self) -> bool:
        """See `Request`."""
        return not self._whole and len(self.pieces) > 0

    @property
    def hungry(self) -> bool:
        """See `Request`."""
        return self._whole or len(self.pieces) < AHEAD

    def next_run(self, most: int) -> Run:
        """See `Request`."""
        return self._run(most, "last" if self.pending <= most else "none")

    def receive(self, rows: np.ndarray, tokens: int, seconds: float) -> None:
        """See `Request`."""
        timing = self.timing
        if len(self.tokens) == len(self.answer.prompt):
            timing.prefill_tokens += tokens
            timing.prefill_seconds += seconds
        else:
            timing.decode_tokens += len(rows)
            timing.decode_seconds += seconds
        if len(rows) == 0:
            return
        piece = self.answer.accept(rows[0])
        self._done = piece.finish_reason is not None
        if piece.token is not None:
            self.tokens.append(piece.token)
        self.pieces.append(piece)


class ScoredWriting(Writing):
    """An answer that tells of each token of the prompt how likely it was.

    Args:
        answer: A fresh one.
        most: How many likeliest tokens to tell.
        only: Whether nothing is written behind the prompt.
    """

    shares_prefix = False

    def __init__(self, answer: Answer, most: int, *, only: bool = False) -> None:
        super().__init__(answer, whole=True)
        self.likelihoods: list[Likelihood] = []
        """Of the tokens behind the first one."""
        self._most, self._only = most, only

    def next_run(self, most: int) -> Run:
        """See `Request`; what was told before it was preempted is not computed again."""
        prompt = len(self.answer.prompt)
        if len(self.tokens) > prompt:
            return super().next_run(most)
        known = min(len(self.likelihoods), prompt - 1)
        if self.computed < known:
            return self._run(min(most, known - self.computed), "none")
        return self._run(min(most, SCORED), "all")

    def receive(self, rows: np.ndarray, tokens: int, seconds: float) -> None:
        """See `Request`."""
        prompt, end = self.answer.prompt, self.computed
        start = end - len(rows)
        if len(self.tokens) > len(prompt) or start >= len(prompt) or not len(rows):
            super().receive(rows, tokens, seconds)
            return
        check_finite(rows)
        following = prompt[start + 1 : end + 1]
        if following:
            self.likelihoods += likelihoods(rows[: len(following)], following, self._most)
        if end < len(prompt):
            super().receive(rows[:0], tokens, seconds)
        elif self._only:
            self._done = True
            self.pieces.append(Piece(None, "", "length"))
        else:
            super().receive(rows[-1:], tokens, seconds)


class Scoring(Request):
    """The logits after every token of a text."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__(tokens)
        self._rows: list[np.ndarray] = []
        self._received = 0

    @property
    def done(self) -> bool:
        """See `Request`."""
        return self._received == len(self.tokens)

    @property
    def news(self) -> bool:
        """See `Request`."""
        return False

    @property
    def logits(self) -> np.ndarray:
        """float32 (tokens, vocabulary), once it is finished."""
        return self._rows[0] if len(self._rows) == 1 else np.concatenate(self._rows)

    def next_run(self, most: int) -> Run:
        """See `Request`; rows that were received before it was preempted are not computed again."""
        known = self._received - self.computed
        return self._run(min(most, known), "none") if known > 0 else self._run(most, "all")

    def receive(self, rows: np.ndarray, tokens: int, seconds: float) -> None:
        """See `Request`."""
        if len(rows):
            check_finite(rows)
            self._rows.append(rows)
            self._received += len(rows)


class Likelihoods(Scoring):
    """How likely each token of a text is after those before it."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__(tokens)
        self.logprobs: list[float] = []
        """Of the tokens behind the first one."""

    def next_run(self, most: int) -> Run:
        """See `Request`."""
        return super().next_run(min(most, SCORED))

    def receive(self, rows: np.ndarray, tokens: int, seconds: float) -> None:
        """See `Request`."""
        check_finite(rows)
        following = self.tokens[self._received + 1 :][: len(rows)]
        self._received += len(rows)
        if following:
            self.logprobs += [each.logprob for each in likelihoods(rows[: len(following)], following, 0)]


class LastRow(Request):
    """The logits after the last token of a text."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__(tokens)
        self.logits = np.zeros(0, np.float32)
        """float32 (vocabulary,), once it is finished."""

    @property
    def done(self) -> bool:
        """See `Request`."""
        return bool(self.logits.size)

    @property
    def news(self) -> bool:
        """See `Request`."""
        return False

    def next_run(self, most: int) -> Run:
        """See `Request`."""
        return self._run(most, "none") if most < self.pending else self._run(self.pending, "last")

    def receive(self, rows: np.ndarray, tokens: int, seconds: float) -> None:
        """See `Request`."""
        if len(rows):
            check_finite(rows)
            self.logits = rows[-1].copy()


def shared_tokens(one: list[int], other: list[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    most = min(len(one), len(other))
    return next((place for place in range(most) if one[place] != other[place]), most)


class Interrupted(GGQError):
    """An answer was cut off while a token was chosen."""
