"""Programs: a model as a flat list of operations on named buffers, the one form that every executor walks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ggq.tape.buffers import Buffer
from ggq.tape.caches import CacheSpec
from ggq.tape.ops.operation import Operation

__all__ = ["Buffer", "Inputs", "Program", "Run"]


@dataclass(frozen=True)
class Inputs:
    """What a program takes.

    Args:
        vocabulary_size: Token ids are below this.
        context_length: Positions are below this.
        types: Types of texts are below this.
        short_context: A text of more tokens is computed with other frequencies from its first token on; 0 where all
            texts have the same.
    """

    vocabulary_size: int
    context_length: int
    types: int = 1
    short_context: int = 0

    def is_long(self, tokens: int) -> bool:
        """Whether a text of so many tokens is computed as a long one."""
        return 0 < self.short_context < tokens


@dataclass(frozen=True)
class Program:
    """A whole model.

    Args:
        ops: In order of execution; tensors are named by role (spec/metadata.md), e.g. "layers.0.attention.q.weight".
        inputs: Bounds of token ids and positions.
        outputs: The buffer that holds results after the last operation, by name: "logits", or "hidden" where a model
            gives a row of numbers for each token.
        caches: What each sequence keeps; operations name a cache by its place.
    """

    ops: tuple[Operation, ...]
    inputs: Inputs
    outputs: Mapping[str, Buffer]
    caches: tuple[CacheSpec, ...] = ()

    @property
    def logits(self) -> Buffer:
        """The buffer of the logits."""
        return self.outputs["logits"]

    @cached_property
    def result(self) -> Buffer:
        """The buffer of the logits or of the rows, whichever there is."""
        return next(iter(self.outputs.values()))

    @cached_property
    def whole_texts(self) -> bool:
        """Whether every text must be computed in one piece."""
        return any(op.whole_texts() for op in self.ops)


@dataclass(frozen=True)
class Run:
    """Consecutive new tokens of one sequence.

    Args:
        sequence: An id from `Executor.open_sequence`.
        tokens: int32 (n,), appended at the sequence's present length.
        logits: Which rows are wanted: "all", "last" or "none".
        types: int (n,), the type of the text that each token belongs to; None where all are of type 0.
        total: Tokens of the whole text, where more than these are known; see `Inputs.short_context`.
    """

    sequence: int
    tokens: np.ndarray
    logits: str = "last"
    types: np.ndarray | None = None
    total: int = 0

    def types_of_all(self) -> np.ndarray:
        """int64 (n,), the type of each token."""
        return np.zeros(len(self.tokens), np.int64) if self.types is None else np.asarray(self.types, np.int64)
