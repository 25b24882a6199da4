"""An executor whose next token depends on all tokens before it, with the engine's own bounded pool: for tests of who
is computed when, which need no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ggq.engine.kv.pool import PagePool, PoolFull
from ggq.engine.kv.sequence import PagedSequence, cost
from ggq.tape.executor import wanted_count
from ggq.tape.program import Inputs, Program, Run

PAGE, VOCABULARY, PAGE_BYTES = 8, 50, 64


def next_token(tokens: Sequence[int]) -> int:
    """What follows some tokens."""
    value = 17
    for token in tokens:
        value = (value * 31 + token + 1) % 100003
    return value % VOCABULARY


def continuation(tokens: Sequence[int], count: int) -> list[int]:
    """What is generated behind a prompt."""
    known = list(tokens)
    for _ in range(count):
        known.append(next_token(known))
    return known[len(tokens) :]


@dataclass
class ToyExecutor:
    """See the module.

    Args:
        pages: Pages of PAGE positions in its pool.
        before: Called with each batch before it is computed.
    """

    program = Program((), Inputs(VOCABULARY, 10**6), {})
    pages: int = 10**6
    before: Callable[[Sequence[Run]], None] = lambda runs: None
    steps: list[list[tuple[int, int]]] = field(default_factory=list)
    """Sequence and tokens of each run, step by step."""

    def __post_init__(self) -> None:
        self.pool = PagePool([PAGE_BYTES], self.pages * PAGE_BYTES)
        self.sequences: dict[int, tuple[PagedSequence, list[int]]] = {}
        self._opened = 0

    def open_sequence(self) -> int:
        self._opened += 1
        self.sequences[self._opened] = PagedSequence(self.pool, [0], PAGE), []
        return self._opened

    def close_sequence(self, sequence: int) -> None:
        self.sequences.pop(sequence)[0].close()

    def fork(self, sequence: int) -> int:
        copy = self.open_sequence()
        paged, tokens = self.sequences[sequence]
        self.sequences[copy] = paged.fork(), list(tokens)
        return copy

    def truncate(self, sequence: int, length: int) -> int:
        paged, tokens = self.sequences[sequence]
        del tokens[length:]
        return paged.truncate(length)

    def length(self, sequence: int) -> int:
        return self.sequences[sequence][0].length

    def serves(self, sequence: int, total: int) -> bool:
        return True

    def reserve(self, sequence: int, tokens: int) -> bool:
        try:
            self.sequences[sequence][0].reserve(tokens)
        except PoolFull:
            return False
        return True

    def room(self) -> int:
        return self.pool.room

    def cost(self, tokens: int) -> int:
        return cost(self.pool, [0], PAGE, tokens)

    def forward(self, runs: Sequence[Run]) -> np.ndarray:
        self.before(runs)
        self.steps.append([(run.sequence, len(run.tokens)) for run in runs])
        rows = []
        for run in runs:
            paged, tokens = self.sequences[run.sequence]
            paged.reserve(len(run.tokens))
            first_wanted = len(run.tokens) - wanted_count(run)
            for place, token in enumerate(run.tokens):
                tokens.append(int(token))
                if place >= first_wanted:
                    rows.append(np.eye(VOCABULARY, dtype=np.float32)[next_token(tokens)])
            paged.append(len(run.tokens))
        return np.array(rows, np.float32).reshape(-1, VOCABULARY)

    def close(self) -> None:
        self.pool.close()
