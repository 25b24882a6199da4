"""What a generation gives: the growing answer, why it ended, how long it took, what a conversation remembers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ggq.generate.sampling import Sampler, log_softmax
from ggq.text.detokenize import Detokenizer, StopStrings

if TYPE_CHECKING:
    from ggq.generate.grammar import Constraint


@dataclass
class Timing:
    """What a generation took: tokens and seconds, of the prompt and of the steps after it.

    Where several are computed together, the seconds of a step count for each of them.
    """

    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0


@dataclass(eq=False)
class Memory:
    """What a conversation has in the cache, so that its next prompt need not be computed from its start.

    Args:
        owner: The scheduler whose sequence it is.
        sequence: Its id in the executor; None while there is none, and while an answer uses it.
        tokens: What the sequence holds.
        busy: Whether an answer uses it; another one meanwhile is computed without it.
    """

    owner: object
    sequence: int | None = None
    tokens: list[int] = field(default_factory=list)
    busy: bool = False


class Likelihood(NamedTuple):
    """How likely a token was: the logarithm of its probability, and the likeliest tokens with theirs."""

    logprob: float
    top: list[tuple[int, float]]


class Piece(NamedTuple):
    """What one step adds to an answer: a token (None for one that ends it), the text that became certain, maybe "", and
    why the answer ended, None while it goes on; and how likely the token was, where that is asked for."""

    token: int | None
    text: str
    finish_reason: str | None
    likelihood: Likelihood | None = None


class Answer:
    """The growing answer to one prompt.

    `tokens` holds what was generated, without the id that ended it. `finish_reason` is why it ended: "end" (the model
    said so), "stop" (a stop string) or "length"; None while it goes on. Steps may be computed ahead of whoever reads
    the answer: `accept` makes a piece, and the answer grows when it is added.

    Args:
        prompt: Token ids.
        limit: Tokens to generate at most.
        sampler: Chooses each token.
        decode: Token ids to text.
        stop: Strings before which the text ends.
        ends: Token ids that end it.
        constraint: What it must match, if anything.
        special: Texts of tokens that `decode` passes over; stop strings may be or contain them.
        logprobs: How many likeliest tokens to tell of each step, besides the chosen one; None tells nothing.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        limit: int,
        sampler: Sampler,
        decode: Callable[[Sequence[int]], str],
        stop: Sequence[str] = (),
        ends: Collection[int] = (),
        special: Mapping[int, str] | None = None,
        constraint: Constraint | None = None,
        logprobs: int | None = None,
    ) -> None:
        self.prompt = list(prompt)
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self._limit, self._sampler, self._ends = limit, sampler, frozenset(ends)
        self._special, self._constraint, self._logprobs = special or {}, constraint, logprobs
        self._detokenizer, self._stops = Detokenizer(decode, prompt), StopStrings(stop)
        self._seen, self._accepted = set(prompt), 0
        self._written: dict[int, int] = {}
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    @property
    def stop_string(self) -> str | None:
        """The stop string that was found, if any."""
        return self._stops.found

    def accept(self, logits: np.ndarray) -> Piece:
        """Choose the next token from float32 (vocabulary,) logits."""
        raw = logits
        if self._constraint is not None:
            logits = self._constraint.masked(logits)
        token = self._sampler.choose(logits, self._seen, self._written)
        if token in self._ends:
            return Piece(None, self._rest(), "stop" if self._stops.found is not None else "end")
        self._accepted += 1
        self._seen.add(token)
        self._written[token] = self._written.get(token, 0) + 1
        likelihood = None if self._logprobs is None else likelihoods(raw, [token], self._logprobs)[0]
        over = self._is_over(token)
        text, reason = self._stops.push(self._detokenizer.push(token), self._special.get(token, "")), None
        if self._stops.found is None and (over or self._accepted == self._limit):
            reason = "end" if over else "length"
            text += self._rest()
        return Piece(token, text, reason if self._stops.found is None else "stop", likelihood)

    def _is_over(self, token: int) -> bool:
        """Whether nothing can follow a token in what the answer must match."""
        if self._constraint is None:
            return False
        self._constraint.accept(token)
        return self._constraint.over

    def add(self, piece: Piece) -> str:
        """Grow by a piece; its text."""
        if piece.token is not None:
            self.tokens.append(piece.token)
        self.finish_reason = piece.finish_reason
        self._pieces.append(piece.text)
        return piece.text

    def _rest(self) -> str:
        piece = self._stops.push(self._detokenizer.flush())
        return piece + self._stops.flush()


def likelihoods(logits: np.ndarray, tokens: Sequence[int], most: int) -> list[Likelihood]:
    """How likely tokens are.

    Args:
        logits: float32 (vocabulary,) for one token, or (tokens, vocabulary).
        tokens: The token of each row.
        most: How many likeliest ones to tell, likeliest first.
    """
    found = []
    for row, token in zip(logits.reshape(len(tokens), -1), tokens):
        logs = log_softmax(row)
        ids = np.argpartition(-logs, min(most, len(logs) - 1))[:most]
        ids = ids[np.lexsort((ids, -logs[ids]))]
        found.append(Likelihood(float(logs[token]), [(int(i), float(logs[i])) for i in ids]))
    return found


def as_tokens(ids: Sequence[int]) -> np.ndarray:
    """Token ids as a run wants them."""
    return np.asarray(ids, dtype=np.int32)
