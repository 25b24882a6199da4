"""Normalizing rows, or the heads of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ggq.errors import UnsupportedError
from ggq.tape.buffers import Buffer
from ggq.tape.ops.operation import Operation, Read, Weight, Write
from ggq.tape.passes import Array, Backward, Forward, Values

if TYPE_CHECKING:
    from ggq.tape.folding import Origin, Origins

KINDS = ("rms", "layer")


@dataclass(frozen=True, eq=False)
class Norm(Operation):
    """out = source / sqrt(mean(source**2) + epsilon) * weight + bias, each of `heads` equal parts of a row on its own.

    Args:
        source, out: May be the same buffer.
        weight, bias: Of one part's width, or, with `own`, of a row's; None for ones and zeros.
        kind: "rms"; "layer" subtracts the mean first.
        heads: Parts of a row.
        own: Whether each part has weights and biases of its own.
    """

    name: ClassVar[str] = "norm"
    source: Read
    weight: Weight | None
    out: Write
    epsilon: float
    kind: str = "rms"
    bias: Weight | None = None
    heads: int = 1
    own: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnsupportedError(f"norm {self.kind!r} is not supported; supported: {', '.join(KINDS)}")

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        source = run[self.source]
        x = self._centred(run, source)
        result = x / run.xp.sqrt(run.inner(x, x) / x.shape[-1] + self.epsilon)
        if self.weight is not None:
            result = result * self._by_part(run.weight(self.weight))
        if self.bias is not None:
            result = result + self._by_part(run.weight(self.bias))
        run[self.out] = result.reshape(source.shape)

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        source = run[self.source]
        x = self._centred(run, source)
        slope = run.take(self.out).reshape(x.shape)
        if self.weight is not None:
            slope = slope * self._by_part(run.weight(self.weight))
        inverse = 1 / run.xp.sqrt(run.inner(x, x) / x.shape[-1] + self.epsilon)
        found = inverse * (slope - x * (run.inner(x, slope) / x.shape[-1] * inverse * inverse))
        if self.kind == "layer":
            found = found - run.xp.mean(found, axis=-1, keepdims=True)
        run.add(self.source, found.reshape(source.shape))

    def origins(self, known: Origins) -> dict[Buffer | int, Origin | None]:
        """A whole row's weight can take a scale of the columns, and its bias with it."""
        from ggq.tape.folding import Origin

        if self.weight is None or self.heads != 1:
            return {self.out: None}
        norms = (self.weight,) if self.bias is None else (self.weight, self.bias)
        return {self.out: Origin(norms, (), (), np.arange(self.out.width), 0)}

    def _by_part(self, x: Array) -> Array:
        """Weights or biases in the shape of the parts."""
        return x.reshape(self.heads, -1) if self.own and self.heads > 1 else x

    def _centred(self, run: Values, source: Array) -> Array:
        """The parts of the rows, less their means for a layer norm."""
        x = source if self.heads == 1 else source.reshape(*source.shape[:-1], self.heads, -1)
        return x - run.xp.mean(x, axis=-1, keepdims=True) if self.kind == "layer" else x
