"""Binding a program to memory: it is lowered, its buffers get addresses, and its operations become rows of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ggq.engine.batch import Batch
from ggq.engine.emit import Context, Step, emit
from ggq.engine.lower import Target, lower
from ggq.engine.lower.padding import widths
from ggq.engine.memory import form_of, plan
from ggq.engine.weights import Weights
from ggq.tape.program import Buffer, Program


@dataclass(frozen=True)
class Bound:
    """A program that a team can run.

    Args:
        program: As the kernels compute it.
        rows: int64 (rows, 32), C-contiguous: the words that the kernels read.
        steps: What each row does.
        context: Holds the memory that the rows point to; they are valid as long as it lives.
        places: Which memory each operation finds its buffers in.
    """

    program: Program
    rows: np.ndarray
    steps: list[Step]
    context: Context
    places: list[dict[Buffer, int]]

    def array(self, buffer: Buffer) -> np.ndarray:
        """What a buffer holds that is there before the first operation or after the last, float32 (rows, width)."""
        found = [place[buffer] for place in self.places if buffer in place]
        return self.context.arrays[found[-1]][:, : buffer.width]

    def finite(self, step: int, buffer: Buffer) -> bool:
        """Whether a buffer that a step has just filled holds finite numbers alone; rounded ones are not looked at."""
        array = self.context.arrays.get(self.places[step].get(buffer, -1))
        if array is None:
            return True
        tokens, wanted = (int(count) for count in self.context.batch.counts[:2])
        rows = tokens if buffer.rows == "tokens" else wanted
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

    with calls.addresses_later() as kernels:
        bound = _unlinked(program, weights, batch, capacity, activations, cache, threads)
    calls.link(bound.rows, kernels)
    return bound


def kernels_for(program: Program, weights: Weights, activations: str = "int8", cache: str = "f16") -> list[str]:
    """The kernels that a program runs, "module.name" each; nothing is compiled. See `bind`."""
    from ggq_kernels.run import calls

    with calls.addresses_later() as kernels:
        _unlinked(program, weights, Batch(1), {"tokens": 1, "wanted": 1}, activations, cache, 1)
    return calls.keys_of(kernels)


def _unlinked(
    program: Program,
    weights: Weights,
    batch: Batch,
    capacity: Mapping[str, int],
    activations: str,
    cache: str,
    threads: int,
) -> Bound:
    """A bound program whose rows have no addresses of kernels yet."""
    from ggq_kernels.run import calls

    int8 = activations == "int8"
    bf16 = int8 and calls.bf16_from() < calls.EVERY
    lowered = lower(program, Target(weights, int8, bf16))
    padded = widths(lowered, weights)
    places = plan(lowered, lambda buffer: form_of(buffer, padded.get(buffer.name, 0)))
    at = Context(calls, weights, batch, program.caches, capacity, cache, threads, bf16, padded)
    rows, steps = [], []
    for op, memory in zip(lowered.ops, places, strict=True):
        at.memory = memory
        step, row = emit(op, at)
        steps.append(step)
        rows.append(row)
    return Bound(lowered, np.ascontiguousarray(np.stack(rows)), steps, at, places)
