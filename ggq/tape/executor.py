"""What every executor of a program promises, and what all ask of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from ggq.errors import UsageError
from ggq.tape.program import Inputs, Run


class Executor(Protocol):
    """Runs a program over tokens of any number of sequences, each with its own key-value cache."""

    def open_sequence(self) -> int:
        """The id of a new, empty sequence."""
        ...

    def close_sequence(self, sequence: int) -> None:
        """Forget a sequence and its cache."""
        ...

    def length(self, sequence: int) -> int:
        """Tokens that a sequence holds."""
        ...

    def fork(self, sequence: int) -> int:
        """The id of a new sequence that holds the same tokens; each goes on by itself."""
        ...

    def truncate(self, sequence: int, length: int) -> int:
        """Forget the tokens of a sequence behind its first `length`.

        Returns:
            Tokens that it holds now: `length`, or fewer where what the next token would see is no longer kept.
        """
        ...

    def reserve(self, sequence: int, tokens: int) -> bool:
        """Set memory of the cache aside for so many more tokens of a sequence; False where there is not enough."""
        ...

    def room(self) -> int:
        """Bytes of the cache that are not in use."""
        ...

    def cost(self, tokens: int) -> int:
        """Bytes of the cache that a new sequence of so many tokens takes."""
        ...

    def forward(self, runs: Sequence[Run]) -> np.ndarray:
        """Append the runs to their sequences, each to another one, splitting long ones as suits the executor.

        Returns:
            float32 (wanted rows in order of the runs, vocabulary): the logits after each wanted token.

        Raises:
            UsageError: See `check_runs`; or the cache has no memory for them. Nothing was appended then.
        """
        ...

    def close(self) -> None:
        """End the threads and release the memory; the executor cannot be used afterwards."""
        ...


def check_runs(inputs: Inputs, runs: Sequence[Run], length: Callable[[int], int]) -> None:
    """Refuse a batch that cannot be run.

    Args:
        inputs: The bounds of token ids and positions.
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
        extremes = (tokens[0],) if tokens.size == 1 else (tokens.min(), tokens.max())
        for token in map(int, extremes):
            if not 0 <= token < inputs.vocabulary_size:
                allowed = f"0 to {inputs.vocabulary_size - 1} allowed"
                raise UsageError(f"token id {token} is outside the vocabulary, {allowed}")
        total = length(run.sequence) + tokens.size
        if total > inputs.context_length:
            raise UsageError(f"{total} tokens do not fit into the model's context of {inputs.context_length}")


def pieces(runs: Sequence[Run], rows: int) -> list[list[Run]]:
    """Cut a batch into consecutive ones of at most `rows` tokens; the wanted rows stay the same, in their order."""
    if sum(len(run.tokens) for run in runs) <= rows:
        return [list(runs)]
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


def wanted_count(run: Run) -> int:
    """How many logit rows are wanted of a run."""
    return {"all": len(run.tokens), "last": 1, "none": 0}[run.logits]


def wanted_rows(runs: Sequence[Run]) -> list[int]:
    """Indices, into the rows of the batch, of those whose logits are wanted."""
    rows: list[int] = []
    end = 0
    for run in runs:
        end += len(run.tokens)
        rows.extend(range(end - wanted_count(run), end))
    return rows
