"""Operations of feed-forwards with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggq.models.parts import Experts
from ggq.tape import ops as tape
from ggq.tape.program import Buffer

if TYPE_CHECKING:
    from ggq.models.build import Builder


def mixture(build: Builder, role: str, part: Experts, source: Buffer) -> Buffer:
    """Append a router and its experts; the buffer of their sum.

    A shared expert with a gate is one more expert, whose share is the gate's; without one it is a feed-forward.
    """

    def buffer(name: str, width: int) -> Buffer:
        return Buffer(name + ("_wanted" if source.rows == "wanted" else ""), width, source.rows)

    logits = buffer("router", part.count)
    gate = buffer("shared_share", 1) if part.shared_gate else None
    outs = {f"{role}.router": logits, **({f"{role}.shared_share": gate} if gate else {})}
    build.linear(source, outs, set())
    shares = buffer("shares", part.count + part.shared_gate)
    build.ops.append(tape.Route(logits, gate, shares, part.chosen, part.renormalised, part.scale))
    names = [(str(expert), part.width) for expert in range(part.count)]
    names += [("shared", part.shared_width)] if gate else []

    def matrices(kind: str) -> tuple[str, ...]:
        shapes = ((name, (source.width, width) if kind == "down" else (width, source.width)) for name, width in names)
        return tuple(build.weight(f"{role}.{name}.{kind}.weight", *shape) for name, shape in shapes)

    result = buffer("mixture", source.width)
    gates, ups, downs = (matrices(kind) for kind in ("gate", "up", "down"))
    build.ops.append(tape.Experts(source, shares, gates, ups, downs, result, part.activation))
    if part.shared_width and not gate:
        first, up, gated = (buffer(f"shared_{name}", part.shared_width) for name in ("gate", "up", "gated"))
        build.linear(source, {f"{role}.shared.gate": first, f"{role}.shared.up": up}, set())
        build.ops.append(tape.Gate(first, up, gated, part.activation))
        build.linear(gated, {f"{role}.shared.down": result}, set(), add=True)
    return result
