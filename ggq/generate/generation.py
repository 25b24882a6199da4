"""From prompts to text: prefill, then one token at a time for every sequence that is not done."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ggq.generate.sampling import Sampler
from ggq.tape.executor import Executor
from ggq.tape.program import Run
from ggq.text.detokenize import Detokenizer, StopStrings


@dataclass
class Timing:
    """What a generation took: tokens and seconds, of the prompt and of the steps after it."""

    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0


@dataclass
class Memory:
    """A sequence that outlives a generation, so that the next prompt need not be computed from its start.

    Args:
        sequence: Its id in the executor.
        tokens: What its cache holds.
    """

    sequence: int
    tokens: list[int] = field(default_factory=list)


class Answer:
    """The growing answer to one prompt.

    `tokens` holds what was generated, without the id that ended it. `finish_reason` is why it ended: "end" (the model
    said so), "stop" (a stop string) or "length"; None while it goes on.

    Args:
        prompt: Token ids.
        limit: Tokens to generate at most.
        sampler: Chooses each token.
        decode: Token ids to text.
        stop: Strings before which the text ends.
        ends: Token ids that end it.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        limit: int,
        sampler: Sampler,
        decode: Callable[[Sequence[int]], str],
        stop: Sequence[str] = (),
        ends: Collection[int] = (),
    ) -> None:
        self.prompt = list(prompt)
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self._limit, self._sampler, self._ends = limit, sampler, frozenset(ends)
        self._detokenizer, self._stops = Detokenizer(decode, prompt), StopStrings(stop)
        self._seen = set(prompt)
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    def accept(self, logits: np.ndarray) -> str:
        """Choose the next token from float32 (vocabulary,) logits; the text that became certain, maybe ""."""
        token = self._sampler.choose(logits, self._seen)
        if token in self._ends:
            self.finish_reason = "end"
            piece = self._rest()
        else:
            self.tokens.append(token)
            self._seen.add(token)
            piece = self._stops.push(self._detokenizer.push(token))
            if self._stops.found is None and len(self.tokens) == self._limit:
                self.finish_reason = "length"
                piece += self._rest()
        if self._stops.found is not None:
            self.finish_reason = "stop"
        self._pieces.append(piece)
        return piece

    def _rest(self) -> str:
        piece = self._stops.push(self._detokenizer.flush())
        return piece + self._stops.flush()


def run(
    executor: Executor, answers: Sequence[Answer], timing: Timing, memory: Memory | None = None
) -> Generator[tuple[Answer, str], None, None]:
    """Generate the answers together, one pass per step for all of them.

    Args:
        executor: Where the model runs.
        answers: Fresh answers.
        timing: Grows as passes are made.
        memory: A sequence to go on with; for a single answer.

    Yields:
        Each answer that grew, with its new piece of text.

    Raises:
        UsageError: See `check_runs`.
    """
    live: dict[int, Answer] = {}
    runs: list[Run] = []
    try:
        for answer in answers:
            known = remembered(executor, memory, answer.prompt)
            sequence = executor.open_sequence() if memory is None else memory.sequence
            live[sequence] = answer
            runs.append(Run(sequence, as_tokens(answer.prompt[known:])))
        timing.prefill_tokens += sum(len(run.tokens) for run in runs)
        while runs:
            start = time.perf_counter()
            logits = executor.forward(runs)
            elapsed = time.perf_counter() - start
            if timing.prefill_seconds == 0:
                timing.prefill_seconds = elapsed
            else:
                timing.decode_seconds += elapsed
                timing.decode_tokens += len(runs)
            pairs = zip(logits, runs, strict=True)
            grown = [(live[past.sequence], live[past.sequence].accept(row)) for row, past in pairs]
            for past in runs:
                if live[past.sequence].finish_reason is not None and memory is None:
                    del live[past.sequence]
                    executor.close_sequence(past.sequence)
            runs = [
                Run(sequence, as_tokens(answer.tokens[-1:]))
                for sequence, answer in live.items()
                if answer.finish_reason is None
            ]
            yield from grown
    finally:
        for sequence, answer in live.items():
            if memory is None:
                executor.close_sequence(sequence)
            else:
                memory.tokens = (answer.prompt + answer.tokens)[: executor.length(sequence)]


def remembered(executor: Executor, memory: Memory | None, prompt: list[int]) -> int:
    """How many of the prompt's tokens the memory's sequence holds; a sequence that holds others is begun anew."""
    if memory is None:
        return 0
    known = len(memory.tokens)
    if known and known < len(prompt) and memory.tokens == prompt[:known]:
        return known
    if known:
        executor.close_sequence(memory.sequence)
        memory.sequence, memory.tokens = executor.open_sequence(), []
    return 0


def as_tokens(ids: Sequence[int]) -> np.ndarray:
    """Token ids as a run wants them."""
    return np.asarray(ids, dtype=np.int32)
