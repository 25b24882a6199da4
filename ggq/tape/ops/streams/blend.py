"""Sums of parts of a row, in shares that each token has for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ggq.tape.buffers import Buffer
from ggq.tape.ops.operation import READ, Operation, Read, Update
from ggq.tape.passes import Array, Backward, Forward, Values


@dataclass(frozen=True, eq=False)
class Blend(Operation):
    """total[first + k] += the sum over i of (shares[k, i] + base) * source[i], k and i being parts of `width` numbers.

    Args:
        source: Parts one behind the other.
        shares: For each part of `total` from `first` on as many numbers as the source has parts; None where all are 0.
        total: Parts one behind the other.
        width: Numbers of a part.
        base: Added to every share.
        first: The first part of `total` that changes.
    """

    name: ClassVar[str] = "blend"
    source: Read
    shares: Annotated[Buffer | None, READ]
    total: Update
    width: int
    base: float = 0.0
    first: int = 0

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        parts = self._parts(run[self.total])
        mixed = parts[..., self.first :, :] + self._shares(run) @ self._parts(run[self.source])
        whole = run.xp.concat([parts[..., : self.first, :], mixed], axis=-2)
        run[self.total] = whole.reshape(run[self.total].shape)

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        slope, source = self._parts(run.slope(self.total))[..., self.first :, :], self._parts(run[self.source])
        back = run.xp.matrix_transpose(self._shares(run)) @ slope
        run.add(self.source, back.reshape(run[self.source].shape))
        if self.shares is not None:
            met = slope @ run.xp.matrix_transpose(source)
            run.add(self.shares, met.reshape(run[self.shares].shape))

    def _parts(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], x.shape[-1] // self.width, self.width)

    def _shares(self, run: Values) -> Array:
        """The share of each part of the source in each part that changes."""
        sources, changed = self.source.width // self.width, self.total.width // self.width - self.first
        if self.shares is None:
            some = run[self.source]
            return run.xp.full((*some.shape[:-1], changed, sources), self.base, dtype=some.dtype)
        given = run[self.shares]
        return given.reshape(*given.shape[:-1], changed, sources) + self.base
