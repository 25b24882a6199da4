"""Operations of feed-forwards with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggq.models.parts import Experts
from ggq.tape import ops as tape
from ggq.tape.program import Buffer

if TYPE_CHECKING:
    from ggq.models.build import Builder


def mixture(build: Builder, role: str, part: Experts, source: Buffer, routed: Buffer | None = None) -> Buffer:
    """Append a router, which meets `routed` where that is given, and its experts; the buffer of their sum.

    A shared expert with a gate is one more expert, whose share is the gate's; without one it is a feed-forward.
    """

    def buffer(name: str, width: int) -> Buffer:
        return Buffer(name + ("_wanted" if source.rows == "wanted" else ""), width, source.rows)

    logits = buffer("router", part.count)
    gate = buffer("shared_share", 1) if part.shared_gate else None
    outs = {f"{role}.router": logits, **({f"{role}.shared_share": gate} if gate else {})}
    build.linear(routed or source, outs, {f"{role}.router"} if part.router.bias else set())
    shares = buffer("shares", part.count + part.shared_gate)
    build.ops.append(route(build, role, part, logits, gate, shares))
    names = [(str(expert), part.width) for expert in range(part.count)]
    names += [("shared", part.shared_width)] if gate else []

    def matrices(kind: str) -> tuple[str, ...]:
        shapes = ((name, (source.width, width) if kind == "down" else (width, source.width)) for name, width in names)
        return tuple(build.weight(f"{role}.{name}.{kind}.weight", *shape) for name, shape in shapes)

    def biases(kind: str) -> tuple[str, ...]:
        shapes = ((name, source.width if kind == "down" else width) for name, width in names)
        return tuple(build.weight(f"{role}.{name}.{kind}.bias", size) for name, size in shapes) if part.bias else ()

    result, kinds = buffer("mixture", source.width), ("gate", "up", "down") if part.gated else ("up", "down")
    found = {f"{kind}s": matrices(kind) for kind in kinds} | {f"{kind}_biases": biases(kind) for kind in kinds}
    build.ops.append(tape.Experts(source, shares, out=result, activation=part.activation, **{"gates": (), **found}))
    if part.shared_width and not gate:
        shared(build, f"{role}.shared", part, source, result)
    return result


def route(build: Builder, role: str, part: Experts, logits: Buffer, gate: Buffer | None, shares: Buffer) -> tape.Route:
    """The operation that makes shares of a router's logits."""
    router = part.router
    return tape.Route(
        logits,
        gate,
        shares,
        part.chosen,
        part.renormalised,
        part.scale,
        score=router.score,
        correction=build.weight(f"{role}.score_correction", part.count) if router.correction else None,
        groups=router.groups,
        chosen_groups=router.chosen_groups,
        best=router.best,
        least=router.least,
        factors=build.weight(f"{role}.factors", part.count) if router.factors else None,
    )


def shared(build: Builder, role: str, part: Experts, source: Buffer, result: Buffer) -> None:
    """Append an expert that all tokens go through, which is added to the others."""
    suffix = "_wanted" if source.rows == "wanted" else ""
    first, up, gated = (
        Buffer(f"shared_{name}{suffix}", part.shared_width, source.rows) for name in ("gate", "up", "gated")
    )
    outs = {f"{role}.gate": first, f"{role}.up": up} if part.gated else {f"{role}.up": up}
    build.linear(source, outs, set(outs) if part.bias else set())
    if part.gated:
        build.ops.append(tape.Gate(first, up, gated, part.activation))
    else:
        build.ops.append(tape.Activate(up, gated, part.activation))
    build.linear(gated, {f"{role}.down": result}, {f"{role}.down"} if part.bias else set(), add=True)
