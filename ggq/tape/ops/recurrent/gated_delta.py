"""The gated delta rule: linear attention whose state forgets, and writes only what it does not know yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ggq.tape.ops.activations import ACTIVATIONS
from ggq.tape.ops.operation import Operation, Read, State, Weight, Write
from ggq.tape.ops.recurrent import chunks
from ggq.tape.passes import Array, Backward, Forward, Oracle, Values

LEAST = 1e-6
"""Added to the square of the length that queries and keys are divided by."""

SIGMOID = ACTIVATIONS["sigmoid"]


@dataclass(frozen=True, eq=False)
class GatedDelta(Operation):
    """For each head: state = left * state; state += rate * key^T (value - key @ state); out = query @ state.

    left is e**(-e**speed * log(1 + e**(decay + shift))), rate is the sigmoid of `rate`, keys and queries have length 1,
    queries are divided by sqrt(key_dim) too.

    Source: Yang et al., Gated Delta Networks (2024), as Qwen3-Next and Qwen3.5 have it.

    Args:
        state: Of shape (heads, key_dim, value_dim), zeros before the first token.
        mixed: Queries and keys of `key_heads` heads, then values of `heads` heads.
        decay, rate: A number for each head.
        out: heads * value_dim wide.
        speed, shift: float (heads,).
        heads, key_heads: Consecutive heads share a key head.
        key_dim, value_dim: Numbers of a key and of a value.
    """

    name: ClassVar[str] = "delta"
    state: State
    mixed: Read
    decay: Read
    rate: Read
    out: Write
    speed: Weight
    shift: Weight
    heads: int
    key_heads: int
    key_dim: int
    value_dim: int

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Of the state."""
        return (self.heads, self.key_dim, self.value_dim)

    def forward(self, run: Forward) -> None:
        """Over whole texts in chunks."""
        found = chunks.computed(run.xp, self._steps(run), correcting=True)
        run[self.out] = chunks.by_row(run.xp, run.xp.concat([each.out for each in found], axis=-2))

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        xp, times = run.xp, self.heads // self.key_heads
        found = chunks.computed(xp, self._steps(run), correcting=True)
        slopes = chunks.slopes(xp, found, chunks.by_head(xp, run.take(self.out), self.heads))
        query, key, _ = self._split(run)
        backs = [
            self._unit_slope(run, query, chunks.shared(slopes.query, times) * self.key_dim**-0.5),
            self._unit_slope(run, key, chunks.shared(slopes.key, times)),
            slopes.value,
        ]
        run.add(self.mixed, xp.concat([chunks.by_row(xp, each) for each in backs], axis=-1))
        open_, share = run[self.decay] + run.weight(self.shift), run[self.rate]
        speed = -xp.exp(run.weight(self.speed))
        run.add(self.decay, slopes.decay.swapaxes(1, 2) * speed * SIGMOID.value(xp, open_))
        run.add(self.rate, slopes.rate.swapaxes(1, 2) * SIGMOID.slope(xp, share))

    def oracle(self, run: Oracle) -> None:
        """Token by token."""
        sizes = np.cumsum([self.key_heads * self.key_dim] * 2)
        speed, shift = (np.asarray(run.weight(role), np.float64) for role in (self.speed, self.shift))
        out = np.zeros((len(run[self.mixed]), self.heads * self.value_dim))
        for state, rows in run.sequences(self.state):
            memory = state.numbers
            for row in range(rows.start, rows.stop):
                query, key, value = np.split(run[self.mixed][row], sizes)
                pair = (each.reshape(self.key_heads, 1, -1) for each in (query, key))
                query, key = (each / np.sqrt((each**2).sum(axis=-1, keepdims=True) + LEAST) for each in pair)
                query, key = (np.repeat(each, self.heads // self.key_heads, axis=0) for each in (query, key))
                left = np.exp(-np.exp(speed) * np.logaddexp(0, run[self.decay][row] + shift))
                rate = 1 / (1 + np.exp(-run[self.rate][row]))
                memory = memory * left[:, None, None]
                missing = value.reshape(self.heads, 1, -1) - key @ memory
                memory = memory + rate[:, None, None] * (key.swapaxes(1, 2) @ missing)
                out[row] = (query @ memory).reshape(-1) / np.sqrt(self.key_dim)
            state.carry(memory, rows.stop - rows.start)
        run[self.out] = out

    def _split(self, run: Values) -> tuple[Array, Array, Array]:
        """Queries, keys and values as they come, (texts, their heads, context, size)."""
        x, width = run[self.mixed], self.key_heads * self.key_dim
        parts = x[..., :width], x[..., width : 2 * width], x[..., 2 * width :]
        query, key, value = (
            chunks.by_head(run.xp, part, heads)
            for part, heads in zip(parts, (self.key_heads, self.key_heads, self.heads), strict=True)
        )
        return query, key, value

    def _steps(self, run: Values) -> chunks.Steps:
        xp, times = run.xp, self.heads // self.key_heads
        query, key, value = self._split(run)
        query, key = (each / xp.sqrt(run.inner(each, each) + LEAST) for each in (query, key))
        query = chunks.repeated(xp, query * self.key_dim**-0.5, times)
        open_ = chunks.softplus(xp, run[self.decay] + run.weight(self.shift))
        decay, rate = -xp.exp(run.weight(self.speed)) * open_, SIGMOID.value(xp, run[self.rate])
        key = chunks.repeated(xp, key, times)
        return chunks.Steps(query, key, value, rate.swapaxes(1, 2), decay.swapaxes(1, 2))

    def _unit_slope(self, run: Backward, x: Array, slope: Array) -> Array:
        """The gradient of x, from that of x of length 1."""
        inverse = 1 / run.xp.sqrt(run.inner(x, x) + LEAST)
        return inverse * (slope - x * (run.inner(x, slope) * inverse * inverse))
