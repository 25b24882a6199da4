"""Programs: a model as a flat list of operations on named buffers, the one form that every executor walks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    """

    vocabulary_size: int
    context_length: int


@dataclass(frozen=True)
class Program:
    """A whole model.

    Args:
        ops: In order of execution; tensors are named by role (spec/metadata.md), e.g. "layers.0.attention.q.weight".
        inputs: Bounds of token ids and positions.
        outputs: Buffers that hold results after the last operation, by name: "logits".
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


@dataclass(frozen=True)
class Run:
    """Consecutive new tokens of one sequence.

    Args:
        sequence: An id from `Executor.open_sequence`.
        tokens: int32 (n,), appended at the sequence's present length.
        logits: Which rows are wanted: "all", "last" or "none".
    """

    sequence: int
    tokens: np.ndarray
    logits: str = "last"
