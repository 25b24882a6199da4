"""Parts of the heads of a buffer into another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ggq.tape.buffers import Buffer
from ggq.tape.ops.operation import WRITE_OR_ADD, Operation, Read
from ggq.tape.passes import Array, Backward, Forward


@dataclass(frozen=True, eq=False)
class Copy(Operation):
    """For each head h, out[start + h * step + i] = source[source_start + h * source_step + i] for i below `width`.

    Args:
        source: Where numbers come from; a step of 0 gives all heads the same.
        out: Where they go; what is nobody's becomes 0, or stays where `add`.
        heads, width: How many parts, and their numbers.
        source_start, source_step, start, step: Where the first part begins, and from one to the next.
        add: Whether the other numbers of `out` stay.
    """

    name: ClassVar[str] = "copy"
    source: Read
    out: Annotated[Buffer, WRITE_OR_ADD]
    heads: int
    width: int
    source_start: int
    source_step: int
    start: int
    step: int
    add: bool = False

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        source = run[self.source]
        shape = (*source.shape[:-1], self.out.width)
        total = run[self.out] * 1 if self.add else run.xp.zeros(shape, dtype=source.dtype)
        for taken, given in self._places():
            total[..., given] = source[..., taken]
        run[self.out] = total

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        slope = run.take(self.out)
        total = run.xp.zeros_like(run[self.source])
        rest: Array = slope * 1
        for taken, given in self._places():
            total[..., taken] = total[..., taken] + slope[..., given]
            rest[..., given] = 0
        run.add(self.source, total)
        if self.add:
            run.add(self.out, rest)

    def _places(self) -> list[tuple[slice, slice]]:
        """Columns of the source and of `out`, head by head."""
        starts = ((self.source_start + h * self.source_step, self.start + h * self.step) for h in range(self.heads))
        return [(slice(a, a + self.width), slice(b, b + self.width)) for a, b in starts]
