"""Gated activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ggq.tape.buffers import Buffer
from ggq.tape.ops.activations import ACTIVATIONS, check_activation
from ggq.tape.ops.operation import Operation, Read, Write
from ggq.tape.passes import Backward, Forward

if TYPE_CHECKING:
    from ggq.tape.folding import Origin, Origins


@dataclass(frozen=True, eq=False)
class Gate(Operation):
    """out = activation(gate) * up, element by element."""

    name: ClassVar[str] = "gate"
    gate: Read
    up: Read
    out: Write
    activation: str

    def __post_init__(self) -> None:
        check_activation(self.activation)

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        run[self.out] = ACTIVATIONS[self.activation].value(run.xp, run[self.gate]) * run[self.up]

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        gate, up, slope, function = run[self.gate], run[self.up], run.take(self.out), ACTIVATIONS[self.activation]
        run.add(self.gate, slope * up * function.slope(run.xp, gate))
        run.add(self.up, slope * function.value(run.xp, gate))

    def origins(self, known: Origins) -> dict[Buffer | int, Origin | None]:
        """Rows of `up`, which the activation does not touch, and of `gate`, which it does; they are moved together."""
        from ggq.tape.folding import Origin

        up, gate = known.of(self.up), known.of(self.gate)
        if up is None or gate is None or up.norms or gate.norms:
            return {self.out: None}
        if up.block != gate.block or not np.array_equal(up.source, gate.source):
            return {self.out: None}
        producers, biases = (*up.producers, *gate.producers), (*up.biases, *gate.biases)
        return {self.out: Origin((), producers, biases, up.source, up.block)}
