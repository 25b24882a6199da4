"""Gathering the rows whose results are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ggq.tape.buffers import Buffer
from ggq.tape.ops.operation import Operation, Read, Write
from ggq.tape.passes import Backward, Forward, Oracle

if TYPE_CHECKING:
    from ggq.tape.folding import Origin, Origins


@dataclass(frozen=True, eq=False)
class Select(Operation):
    """out = the rows of source whose results are wanted; all of them in a pass over whole texts."""

    name: ClassVar[str] = "select"
    source: Read
    out: Write

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        run[self.out] = run[self.source]

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        run.add(self.source, run.take(self.out))

    def oracle(self, run: Oracle) -> None:
        """See `Operation`."""
        run[self.out] = run[self.source][run.wanted]

    def origins(self, known: Origins) -> dict[Buffer | int, Origin | None]:
        """Those of the source."""
        return {self.out: known.of(self.source)}
