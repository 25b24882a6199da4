"""How wide buffers must be for the kernels, which read whole groups and units of columns."""

from __future__ import annotations

from ggq.engine.lower.ops import Multiply, Round, Rounded, RoundGate
from ggq.engine.weights import COLUMN_PADDING, Weights
from ggq.format.scheme import round_up
from ggq.tape.ops import Gate
from ggq.tape.program import Buffer, Program


def widths(program: Program, weights: Weights) -> dict[str, int]:
    """Columns of each buffer, padded so that every matrix that reads it finds zeros beyond its width, also where it
    reads a gate's sources."""
    found: dict[str, int] = {}

    def widen(buffer: Buffer, columns: int) -> None:
        found[buffer.name] = max(found[buffer.name], columns)

    for op in program.ops:
        for buffer in op.buffers():
            found.setdefault(buffer.name, round_up(buffer.width, COLUMN_PADDING))
    for op in program.ops:
        if isinstance(op, Multiply) and not isinstance(op.source, Rounded):
            widen(op.source, max(weights.matrix(role).columns for role in op.weights))
        elif isinstance(op, Round):
            widen(op.source, op.out.columns)
        elif isinstance(op, RoundGate):
            widen(op.gate, op.out.columns)
            widen(op.up, op.out.columns)
    for op in program.ops:
        if isinstance(op, Gate):
            widen(op.gate, found[op.out.name])
            widen(op.up, found[op.out.name])
    return found
