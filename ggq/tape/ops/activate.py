"""Activations without a gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ggq.tape.ops.activations import ACTIVATIONS, WITHOUT_GATE, check_activation
from ggq.tape.ops.operation import Operation, Read, Write
from ggq.tape.passes import Backward, Forward


@dataclass(frozen=True, eq=False)
class Activate(Operation):
    """out = activation(source), element by element; source and out may be the same buffer."""

    name: ClassVar[str] = "activation"
    source: Read
    out: Write
    activation: str

    def __post_init__(self) -> None:
        check_activation(self.activation, WITHOUT_GATE)

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        run[self.out] = ACTIVATIONS[self.activation].value(run.xp, run[self.source])

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        slope = run.take(self.out)
        run.add(self.source, slope * ACTIVATIONS[self.activation].slope(run.xp, run[self.source]))
