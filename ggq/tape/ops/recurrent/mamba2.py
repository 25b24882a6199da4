"""The scan of Mamba-2: a state for each head that decays and to which each token is added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ggq.tape.ops.activations import ACTIVATIONS
from ggq.tape.ops.operation import Operation, Read, State, Weight, Write
from ggq.tape.ops.recurrent import chunks
from ggq.tape.passes import Array, Backward, Forward, Oracle, Values

SIGMOID = ACTIVATIONS["sigmoid"]


@dataclass(frozen=True, eq=False)
class Mamba2(Operation):
    """For each head: state = e**(-e**speed * step) * state + step * B^T x; out = C @ state + skip * x.

    step is log(1 + e**(step + shift)), held within `least` and `most`.

    Source: Dao and Gu, Transformers are SSMs (2024).

    Args:
        state: Of shape (heads, state_size, head_dim), zeros before the first token.
        mixed: x of `heads` heads of `head_dim` numbers, then B and C of `groups` groups of `state_size`.
        step: A number for each head.
        out: heads * head_dim wide.
        speed, shift, skip: float (heads,).
        heads, groups: Consecutive heads share a group.
        head_dim, state_size: Sizes.
        least, most: Bounds of a step; `most` may be infinite.
    """

    name: ClassVar[str] = "scan"
    state: State
    mixed: Read
    step: Read
    out: Write
    speed: Weight
    shift: Weight
    skip: Weight
    heads: int
    groups: int
    head_dim: int
    state_size: int
    least: float = 0.0
    most: float = float("inf")

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Of the state."""
        return (self.heads, self.state_size, self.head_dim)

    def forward(self, run: Forward) -> None:
        """Over whole texts in chunks."""
        xp, steps = run.xp, self._steps(run)
        found = chunks.computed(xp, steps, correcting=False)
        out = xp.concat([each.out for each in found], axis=-2) + self._skips(run) * steps.value
        run[self.out] = chunks.by_row(xp, out)

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        xp, steps, slope = run.xp, self._steps(run), chunks.by_head(run.xp, run.take(self.out), self.heads)
        found = chunks.slopes(xp, chunks.computed(xp, steps, correcting=False), slope)
        times = self.heads // self.groups
        backs = [found.value + self._skips(run) * slope]
        backs += [chunks.shared(each, times) for each in (found.key, found.query)]
        run.add(self.mixed, xp.concat([chunks.by_row(xp, each) for each in backs], axis=-1))
        raw = run[self.step] + run.weight(self.shift)
        wide = chunks.softplus(xp, raw)
        inside = xp.where((wide >= self.least) & (wide <= self.most), xp.ones_like(wide), xp.zeros_like(wide))
        back = found.rate.swapaxes(1, 2) - xp.exp(run.weight(self.speed)) * found.decay.swapaxes(1, 2)
        run.add(self.step, back * inside * SIGMOID.value(xp, raw))

    def oracle(self, run: Oracle) -> None:
        """Token by token."""
        sizes = np.cumsum([self.heads * self.head_dim, self.groups * self.state_size])
        speed, shift, skip = (np.asarray(run.weight(role), np.float64) for role in (self.speed, self.shift, self.skip))
        out = np.zeros((len(run[self.mixed]), self.heads * self.head_dim))
        for state, rows in run.sequences(self.state):
            memory = state.numbers
            for row in range(rows.start, rows.stop):
                x, b, c = np.split(run[self.mixed][row], sizes)
                x = x.reshape(self.heads, 1, -1)
                b, c = (
                    np.repeat(each.reshape(self.groups, 1, -1), self.heads // self.groups, axis=0) for each in (b, c)
                )
                step = np.clip(np.logaddexp(0, run[self.step][row] + shift), self.least, self.most)
                memory = memory * np.exp(-np.exp(speed) * step)[:, None, None]
                memory = memory + step[:, None, None] * (b.swapaxes(1, 2) @ x)
                out[row] = (c @ memory + skip[:, None, None] * x).reshape(-1)
            state.carry(memory, rows.stop - rows.start)
        run[self.out] = out

    def _skips(self, run: Values) -> Array:
        return run.weight(self.skip)[:, None, None]

    def _steps(self, run: Values) -> chunks.Steps:
        xp, x, times = run.xp, run[self.mixed], self.heads // self.groups
        width, inner = self.heads * self.head_dim, self.groups * self.state_size
        value = chunks.by_head(xp, x[..., :width], self.heads)
        pair = x[..., width : width + inner], x[..., width + inner :]
        key, query = (chunks.repeated(xp, chunks.by_head(xp, each, self.groups), times) for each in pair)
        rate = xp.clip(chunks.softplus(xp, run[self.step] + run.weight(self.shift)), self.least, self.most)
        decay = -xp.exp(run.weight(self.speed)) * rate
        return chunks.Steps(query, key, value, rate.swapaxes(1, 2), decay.swapaxes(1, 2))
