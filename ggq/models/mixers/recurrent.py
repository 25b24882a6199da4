"""Operations of mixers that carry a state from token to token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggq.models.parts import GatedDelta, ShortConv
from ggq.tape import ops as tape
from ggq.tape.caches import StateSpec
from ggq.tape.program import Buffer

if TYPE_CHECKING:
    from ggq.models.build import Builder


def short_conv(build: Builder, role: str, part: ShortConv, source: Buffer) -> Buffer:
    """Append a convolution and its gates; the buffer that the last matrix meets."""
    names = ("source", "before", "after")
    inputs = {f"{role}.{name}": Buffer(f"conv_{name}", part.width) for name in names}
    build.linear(source, inputs, set(inputs) if part.bias else set())
    convolved, before, after = inputs.values()
    taps = build.weight(f"{role}.taps.weight", part.reach * part.width)
    bias = build.weight(f"{role}.taps.bias", part.width) if part.bias else None
    out = Buffer("convolved", part.width)
    carry(build, tape.ShortConv(len(build.caches), convolved, out, taps, part.reach, before, after, bias))
    return out


def gated_delta(build: Builder, role: str, part: GatedDelta, source: Buffer) -> Buffer:
    """Append a gated delta net; the buffer that the last matrix meets."""
    width, keys = part.heads * part.value_dim, part.key_heads * part.key_dim
    mixed, gate = Buffer("delta_mixed", 2 * keys + width), Buffer("delta_gate", width)
    rate, decay = Buffer("delta_rate", part.heads), Buffer("delta_decay", part.heads)
    outs = {f"{role}.mixed": mixed, f"{role}.gate": gate, f"{role}.rate": rate, f"{role}.decay": decay}
    build.linear(source, outs, set())
    convolved = Buffer("delta_convolved", mixed.width)
    taps = build.weight(f"{role}.taps.weight", part.reach * mixed.width)
    carry(build, tape.ShortConv(len(build.caches), mixed, convolved, taps, part.reach, activation="silu"))
    found, sizes = Buffer("delta_found", width), (part.heads, part.key_heads, part.key_dim, part.value_dim)
    speed, shift = (build.weight(f"{role}.{name}", part.heads) for name in ("speed", "shift"))
    carry(build, tape.GatedDelta(len(build.caches), convolved, decay, rate, found, speed, shift, *sizes))
    build.norm(part.norm, f"{role}.norm", found, found, part.heads)
    out = Buffer("delta_gated", width)
    build.ops.append(tape.Gate(gate, found, out, "silu"))
    return out


def carry(build: Builder, op: tape.ShortConv | tape.GatedDelta | tape.Mamba2) -> None:
    """Append an operation and its state."""
    build.ops.append(op)
    build.caches.append(StateSpec(op.state_shape))
