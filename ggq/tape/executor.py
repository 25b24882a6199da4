"""What every executor of a program promises, and what all ask of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from ggq.errors import UsageError
from ggq.tape.program import Program, Run


class Executor(Protocol):
    """Runs a program over tokens of any number of sequences, each with its own key-value cache."""

    program: Program

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

    def serves(self, sequence: int, total: int) -> bool:
        """Whether what a sequence holds is what a text of so many tokens begins with; where not, the sequence must be
        cut back to nothing and computed anew (`Inputs.short_context`)."""
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
            float32 (wanted rows in order of the runs, width of the program's result): the logits after each wanted
            token, or its row.

        Raises:
            UsageError: See `check_runs`; or the cache has no memory for them. Nothing was appended then.
        """
        ...

    def close(self) -> None:
        """End the threads and release the memory; the executor cannot be used afterwards."""
        ...


def check_runs(executor: Executor, runs: Sequence[Run]) -> None:
    """Refuse a batch that cannot be run.

    Raises:
        UsageError: A run is empty, a sequence occurs twice, a token id is no token of the vocabulary, a type of text is
            none of the model's, a sequence would outgrow the context or what it holds does not serve for as many
            tokens, or a text that must be whole is cut in two.
    """
    seen: set[int] = set()
    program = executor.program
    inputs = program.inputs
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
        _check_types(run, tokens.size, inputs.types)
        total = executor.length(run.sequence) + tokens.size
        if program.whole_texts and total > tokens.size:
            raise UsageError("the model reads a text in one piece: its sequence cannot be continued")
        if total > inputs.context_length:
            raise UsageError(f"{total} tokens do not fit into the model's context of {inputs.context_length}")
        if inputs.short_context and not executor.serves(run.sequence, max(total, run.total)):
            problem = f"a text that becomes longer than {inputs.short_context} tokens is computed anew from its first"
            raise UsageError(problem, fix="truncate the sequence to 0 and append the whole text")


def _check_types(run: Run, count: int, types: int) -> None:
    if run.types is None:
        return
    given = np.asarray(run.types)
    if given.shape != (count,) or given.dtype.kind not in "iu":
        raise UsageError("a run needs as many types as tokens")
    for each in (int(given.min()), int(given.max())):
        if not 0 <= each < types:
            raise UsageError(f"a text of type {each} is none of the model's, 0 to {types - 1} allowed")


def pieces(runs: Sequence[Run], rows: int, *, whole: bool = False) -> list[list[Run]]:
    """Cut a batch into consecutive ones of at most `rows` tokens; the wanted rows stay the same, in their order.

    Args:
        runs: The batch.
        rows: Tokens of a piece.
        whole: Whether runs stay in one piece; a longer one is a piece of its own.
    """
    if whole:
        return _whole_pieces(runs, rows)
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
            types = None if run.types is None else run.types[start:end]
            part = replace(run, tokens=run.tokens[start:end], logits="none" if last_here else run.logits, types=types)
            batches[-1].append(part)
            room -= end - start
            start = end
    return batches


def _whole_pieces(runs: Sequence[Run], rows: int) -> list[list[Run]]:
    batches: list[list[Run]] = []
    room = 0
    for run in runs:
        if not batches or len(run.tokens) > room:
            batches.append([])
            room = rows
        batches[-1].append(run)
        room -= len(run.tokens)
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
