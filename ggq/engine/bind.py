"""Binding a program to memory: it is lowered, its buffers get addresses, and its operations become rows of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ggq.engine.batch import Batch
from ggq.engine.emit import Context, Step, emit
from ggq.engine.lower import Target, lower
from ggq.engine.lower.padding import widths
from ggq.engine.memory import form_of, plan
from ggq.engine.repeated import Tape, filled, steps, written
from ggq.engine.weights import Weights
from ggq.tape.ops import Operation
from ggq.tape.program import Buffer, Program


@dataclass(frozen=True)
class Bound:
    """A program that a team can run.

    Args:
        program: As the kernels compute it, maybe without experts that are like their neighbours.
        tape: The rows that the kernels read, those of these experts too.
        shown: What each operation of the program does.
        context: Holds the memory that the rows point to; they are valid as long as it lives.
        places: Which memory each operation finds its buffers in.
    """

    program: Program
    tape: Tape
    shown: list[Step]
    context: Context
    places: list[dict[Buffer, int]]

    @property
    def rows(self) -> np.ndarray:
        """int64 (rows, 32), C-contiguous: the words that the kernels read."""
        return self.tape.rows

    @cached_property
    def steps(self) -> list[Step]:
        """What each row does."""
        return steps(self.tape, self.shown)

    def op(self, step: int) -> Operation:
        """The operation that a row computes, of this expert or of one that is like it."""
        return self.program.ops[self.tape.sources[step]]

    def array(self, buffer: Buffer) -> np.ndarray:
        """What a buffer holds that is there before the first operation or after the last, float32 (rows, width)."""
        found = [place[buffer] for place in self.places if buffer in place]
        return self.context.arrays[found[-1]][:, : buffer.width]

    def finite(self, step: int, buffer: Buffer) -> bool:
        """Whether a buffer that a step has just filled holds finite numbers alone; rounded ones are not looked at."""
        source, batch = self.tape.sources[step], self.context.batch
        array = self.context.arrays.get(self.places[source].get(buffer, -1))
        if array is None:
            return True
        kind, _, expert = buffer.rows.partition(".")
        place = ("tokens", "wanted").index(kind)
        rows = int(batch.expert_counts[self.tape.experts[step]] if expert else batch.counts[place])
        return bool(np.isfinite(array[:rows, : buffer.width]).all())


def bind(
    program: Program,
    weights: Weights,
    batch: Batch,
    capacity: Mapping[str, int],
    activations: str,
    cache: str,
    threads: int,
) -> Bound:
    """Make the rows of a program; kernels that are missing are compiled.

    Args:
        program: The model.
        weights: Its tensors.
        batch: Where the kernels find the batch.
        capacity: Most rows of a batch, by the `rows` of a buffer: "tokens", "wanted".
        activations: "int8" or "float32".
        cache: "f16" or "f32".
        threads: Of the team, to size the shares of work.

    Raises:
        UnsupportedError: A scheme or an operation that no kernel computes.
        FormatError: An order of columns that points outside.
    """
    from ggq_kernels.run import calls

    for every in (False, True):
        with calls.addresses_later() as kernels:
            bound = _unlinked(program, weights, batch, capacity, activations, cache, threads, every)
        calls.link(bound.rows, kernels)
        tape = filled(bound.tape, bound.shown, bound.context)
        if tape is not None:
            return replace(bound, tape=tape)
    raise AssertionError("every expert was written out")


def kernels_for(program: Program, weights: Weights, activations: str = "int8", cache: str = "f16") -> list[str]:
    """The kernels that a program runs, "module.name" each; nothing is compiled. See `bind`."""
    from ggq_kernels.run import calls

    with calls.addresses_later() as kernels:
        _unlinked(program, weights, Batch(1), {"tokens": 1, "wanted": 1}, activations, cache, 1, every=False)
    return calls.keys_of(kernels)


def _unlinked(
    program: Program,
    weights: Weights,
    batch: Batch,
    capacity: Mapping[str, int],
    activations: str,
    cache: str,
    threads: int,
    every: bool,
) -> Bound:
    """A bound program whose rows have no addresses of kernels yet, as many as its lowered operations."""
    from ggq_kernels.run import calls

    int8 = activations == "int8"
    bf16 = int8 and calls.bf16_from() < calls.EVERY
    lowered = lower(program, Target(weights, int8, bf16, every))
    padded = widths(lowered, weights)
    places = plan(lowered, lambda buffer: form_of(buffer, padded.get(buffer.name, 0)))
    at = Context(calls, weights, batch, program.caches, capacity, cache, threads, bf16, padded)
    rows, shown = [], []
    for op, memory in zip(lowered.ops, places, strict=True):
        at.memory = memory
        step, row = emit(op, at)
        shown.append(step)
        rows.append(row)
    return Bound(lowered, written(np.ascontiguousarray(np.stack(rows)), shown), shown, at, places)
