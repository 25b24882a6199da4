"""Gated activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ggq.tape.buffers import Buffer
from ggq.tape.ops.activations import CLAMPED, GATES, check_activation, gate_function
from ggq.tape.ops.operation import Operation, Read, Write
from ggq.tape.passes import Backward, Forward

if TYPE_CHECKING:
    from ggq.tape.folding import Origin, Origins


@dataclass(frozen=True, eq=False)
class Gate(Operation):
    """out = activation(gate) * up, element by element; `clamped_swiglu` takes both in a way of its own."""

    name: ClassVar[str] = "gate"
    gate: Read
    up: Read
    out: Write
    activation: str

    def __post_init__(self) -> None:
        check_activation(self.activation, GATES)

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        run[self.out] = gate_function(self.activation).value(run.xp, run[self.gate], run[self.up])

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        slope = run.take(self.out)
        to_gate, to_up = gate_function(self.activation).slopes(run.xp, run[self.gate], run[self.up])
        run.add(self.gate, slope * to_gate)
        run.add(self.up, slope * to_up)

    def origins(self, known: Origins) -> dict[Buffer | int, Origin | None]:
        """Rows of `up`, which the activation does not touch, and of `gate`, which it does; they are moved together."""
        from ggq.tape.folding import Origin

        up, gate = known.of(self.up), known.of(self.gate)
        if self.activation == CLAMPED:  # no number of `up` can be scaled behind its bounds
            return {self.out: None}
        if up is None or gate is None or up.norms or gate.norms:
            return {self.out: None}
        if up.block != gate.block or not np.array_equal(up.source, gate.source):
            return {self.out: None}
        producers, biases = (*up.producers, *gate.producers), (*up.biases, *gate.biases)
        return {self.out: Origin((), producers, biases, up.source, up.block)}
