"""Short causal convolutions, each channel on its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ggq.errors import UnsupportedError
from ggq.tape.ops.activations import ACTIVATIONS
from ggq.tape.ops.operation import Operation, Read, State, Weight, Write
from ggq.tape.passes import Array, Backward, Forward, Oracle, Values

CONVOLVED = ("none", "silu")
"""What is done to the sums of a convolution."""


@dataclass(frozen=True, eq=False)
class ShortConv(Operation):
    """out[t] = after[t] * activation(bias + sum over j of taps[j] * (before * source)[t - reach + 1 + j]).

    Source: the gated short convolution of LFM2; without gates that of Mamba and of gated delta nets.

    Args:
        state: Of shape (reach - 1, width): the last inputs of the convolution, zeros before the first token.
        source, out: Of one width; they may be the same buffer.
        before, after: Gates of the same width; None for none.
        taps: float (reach * width,): first the weights of the oldest input, of every channel.
        reach: Tokens that a result depends on, its own included.
        bias: float (width,); None for none.
        activation: "silu" or "none".
    """

    name: ClassVar[str] = "convolution"
    state: State
    source: Read
    out: Write
    taps: Weight
    reach: int
    before: Read | None = None
    after: Read | None = None
    bias: Weight | None = None
    activation: str = "none"

    def __post_init__(self) -> None:
        if self.activation not in CONVOLVED:
            problem = f"activation {self.activation!r} of a convolution is not supported"
            raise UnsupportedError(f"{problem}; supported: {', '.join(CONVOLVED)}")

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Of the state."""
        return (self.reach - 1, self.source.width)

    def forward(self, run: Forward) -> None:
        """Over whole texts, each after zeros."""
        sums = self._sums(run, self._inputs(run))
        out = ACTIVATIONS[self.activation].value(run.xp, sums) if self.activation != "none" else sums
        run[self.out] = out if self.after is None else out * run[self.after]

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        xp, inputs, slope = run.xp, self._inputs(run), run.take(self.out)
        sums = self._sums(run, inputs)
        if self.after is not None:
            out = ACTIVATIONS[self.activation].value(xp, sums) if self.activation != "none" else sums
            run.add(self.after, slope * out)
            slope = slope * run[self.after]
        if self.activation != "none":
            slope = slope * ACTIVATIONS[self.activation].slope(xp, sums)
        context, taps = slope.shape[1], run.weight(self.taps).reshape(self.reach, -1)
        behind = xp.concat([slope, *[xp.zeros_like(slope[:, :1])] * (self.reach - 1)], axis=1)
        back = sum(taps[self.reach - 1 - age] * behind[:, age : age + context] for age in range(self.reach))
        if self.before is None:
            run.add(self.source, back)
        else:
            run.add(self.source, back * run[self.before])
            run.add(self.before, back * run[self.source])

    def oracle(self, run: Oracle) -> None:
        """Token by token, with a queue of inputs."""
        out = np.zeros_like(run[self.source])
        taps = np.asarray(run.weight(self.taps), np.float64).reshape(self.reach, -1)
        bias = 0.0 if self.bias is None else np.asarray(run.weight(self.bias), np.float64)
        for state, rows in run.sequences(self.state):
            queue = list(state.numbers)
            for row in range(rows.start, rows.stop):
                gate = 1.0 if self.before is None else run[self.before][row]
                queue.append(run[self.source][row] * gate)
                found = bias + sum(weight * each for weight, each in zip(taps, queue, strict=True))
                found = found / (1 + np.exp(-found)) if self.activation == "silu" else found
                out[row] = found if self.after is None else found * run[self.after][row]
                queue.pop(0)
            state.carry(np.reshape(queue, state.numbers.shape), rows.stop - rows.start)
        run[self.out] = out

    def _inputs(self, run: Values) -> Array:
        return run[self.source] if self.before is None else run[self.source] * run[self.before]

    def _sums(self, run: Values, inputs: Array) -> Array:
        """(texts, context, width)"""
        context, taps = inputs.shape[1], run.weight(self.taps).reshape(self.reach, -1)
        padded = run.xp.concat([*[run.xp.zeros_like(inputs[:, :1])] * (self.reach - 1), inputs], axis=1)
        sums = sum(taps[place] * padded[:, place : place + context] for place in range(self.reach))
        return sums if self.bias is None else sums + run.weight(self.bias)
