"""Rotary position embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ggq.errors import UnsupportedError
from ggq.tape.ops.operation import Operation, Update
from ggq.tape.passes import Array, Backward, Forward, Values
from ggq.tape.rotation import LAYOUTS, Rotation


@dataclass(frozen=True, eq=False)
class Rope(Operation):
    """Turn the pairs of each head of `buffer` in place by its token's position times the rotation's frequencies."""

    name: ClassVar[str] = "rope"
    buffer: Update
    heads: int
    rotation: Rotation

    def __post_init__(self) -> None:
        if (layout := self.rotation.layout) not in LAYOUTS:
            raise UnsupportedError(f"RoPE layout {layout!r} is not supported; supported: {', '.join(LAYOUTS)}")

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        run[self.buffer] = self._turned(run, run[self.buffer], back=False)

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        run.add(self.buffer, self._turned(run, run.take(self.buffer), back=True))

    def _turned(self, run: Values, x: Array, *, back: bool) -> Array:
        """Each head's pairs turned, or, for gradients, turned back."""
        cosine, sine = run.rotation(self.rotation)
        pairs, xp = cosine.shape[-1], run.xp
        cosine, sine = cosine[:, None], -sine[:, None] if back else sine[:, None]
        heads = x.reshape(*x.shape[:-1], self.heads, -1)
        turning, rest = heads[..., : 2 * pairs], heads[..., 2 * pairs :]
        half = self.rotation.layout == "half"
        split = turning.reshape(*turning.shape[:-1], *((2, pairs) if half else (pairs, 2)))
        first, second = (split[..., 0, :], split[..., 1, :]) if half else (split[..., 0], split[..., 1])
        turned = xp.stack([first * cosine - second * sine, second * cosine + first * sine], axis=-2 if half else -1)
        turned = turned.reshape(turning.shape)
        return (xp.concat([turned, rest], axis=-1) if rest.shape[-1] else turned).reshape(x.shape)
