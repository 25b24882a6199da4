"""What both interpreters of a tape promise, and what both ask of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from ggq.engine.tape import Run, Tape
from ggq.errors import UsageError


class Executor(Protocol):
    """Runs a tape over tokens of any number of sequences, each with its own key-value cache."""

    def open_sequence(self) -> int:
        """The id of a new, empty sequence."""
        ...

    def close_sequence(self, sequence: int) -> None:
        """Forget a sequence and its cache."""
        ...

    def length(self, sequence: int) -> int:
        """Tokens that a sequence holds."""
        ...

    def forward(self, runs: Sequence[Run]) -> np.ndarray:
        """Append the runs to their sequences, each to another one, splitting long ones as suits the executor.

        Returns:
            float32 (wanted rows in order of the runs, vocabulary): the logits after each wanted token.

        Raises:
            UsageError: See `check_runs`; nothing was appended then.
        """
        ...

    def close(self) -> None:
        """Let go of threads; nothing is run after that."""
        ...


def check_runs(tape: Tape, runs: Sequence[Run], length: Callable[[int], int]) -> None:
    """Refuse a batch that cannot be run.

    Args:
        tape: Its vocabulary and context length are the bounds.
        runs: The batch.
        length: Tokens that a sequence holds now.

    Raises:
        UsageError: A run is empty, a sequence occurs twice, a token id is no token of the vocabulary, or a sequence
            would outgrow the context.
    """
    seen: set[int] = set()
    for run in runs:
        tokens = np.asarray(run.tokens)
        if tokens.ndim != 1 or tokens.size == 0 or tokens.dtype.kind not in "iu":
            raise UsageError("a run needs a list of one or more token ids")
        if run.sequence in seen:
            raise UsageError(f"sequence {run.sequence} occurs twice in one batch")
        seen.add(run.sequence)
        for token in (int(tokens.min()), int(tokens.max())):
            if not 0 <= token < tape.vocabulary_size:
                raise UsageError(f"token id {token} is outside the vocabulary, 0 to {tape.vocabulary_size - 1} allowed")
        total = length(run.sequence) + tokens.size
        if total > tape.context_length:
            raise UsageError(f"{total} tokens do not fit into the model's context of {tape.context_length}")


def pieces(runs: Sequence[Run], rows: int) -> list[list[Run]]:
    """Cut a batch into consecutive ones of at most `rows` tokens; the wanted rows stay the same, in their order."""
    batches: list[list[Run]] = [[]]
    room = rows
    for run in runs:
        start = 0
        while start < len(run.tokens):
            if room == 0:
                batches.append([])
                room = rows
            end = min(start + room, len(run.tokens))
            last_here = run.logits == "last" and end < len(run.tokens)
            part = replace(run, tokens=run.tokens[start:end], logits="none" if last_here else run.logits)
            batches[-1].append(part)
            room -= end - start
            start = end
    return batches


def wanted_rows(runs: Sequence[Run]) -> np.ndarray:
    """int64 indices, into the rows of the batch, of those whose logits are wanted."""
    rows: list[np.ndarray] = []
    start = 0
    for run in runs:
        end = start + len(run.tokens)
        first = {"all": start, "last": end - 1, "none": end}[run.logits]
        rows.append(np.arange(first, end, dtype=np.int64))
        start = end
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
