"""Operations of feed-forwards without experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggq.models.parts import XIELU, Mlp, NormedMlp, SparseMlp
from ggq.tape import ops as tape
from ggq.tape.program import Buffer

if TYPE_CHECKING:
    from ggq.models.build import Builder


def mlp(build: Builder, role: str, part: Mlp, source: Buffer, prefix: str = "") -> Buffer:
    """Append the first matrices and the activation; the buffer that the last matrix meets."""
    suffix = "_wanted" if source.rows == "wanted" else ""
    gate, up, gated = (Buffer(prefix + name + suffix, part.width, source.rows) for name in ("gate", "up", "gated"))
    outs = {f"{role}.gate": gate, f"{role}.up": up} if part.gated else {f"{role}.up": up}
    build.linear(source, outs, set(outs) if part.bias else set())
    if isinstance(part, SparseMlp):
        build.ops.append(tape.GaussianTopK(gate, part.deviations))
    if part.gated:
        build.ops.append(tape.Gate(gate, up, gated, part.activation))
        found = gated
    elif part.activation == XIELU:
        learned = (build.weight(f"{role}.activation.{name}", 1) for name in ("alpha_p", "alpha_n", "beta"))
        build.ops.append(tape.Xielu(up, up, *learned))
        found = up
    else:
        build.ops.append(tape.Activate(up, up, part.activation))
        found = up
    return build.norm(part.inner_norm, f"{role}.down_norm", found, found) if isinstance(part, NormedMlp) else found
