"""Operations of mixers that carry a state from token to token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggq.models.parts import GatedDelta, Mamba2, ShortConv
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
    carry(build, tape.ShortConv(len(build.caches), convolved, convolved, taps, part.reach, before, after, bias))
    return convolved


def gated_delta(build: Builder, role: str, part: GatedDelta, source: Buffer) -> Buffer:
    """Append a gated delta net; the buffer that the last matrix meets."""
    width, keys = part.heads * part.value_dim, part.key_heads * part.key_dim
    mixed, gate = Buffer("delta_mixed", 2 * keys + width), Buffer("delta_gate", width)
    rate, decay = Buffer("delta_rate", part.heads), Buffer("delta_decay", part.heads)
    outs = {f"{role}.mixed": mixed, f"{role}.gate": gate, f"{role}.rate": rate, f"{role}.decay": decay}
    build.linear(source, outs, set())
    taps = build.weight(f"{role}.taps.weight", part.reach * mixed.width)
    carry(build, tape.ShortConv(len(build.caches), mixed, mixed, taps, part.reach, activation="silu"))
    found, sizes = Buffer("delta_found", width), (part.heads, part.key_heads, part.key_dim, part.value_dim)
    speed, shift = (build.weight(f"{role}.{name}", part.heads) for name in ("speed", "shift"))
    carry(build, tape.GatedDelta(len(build.caches), mixed, decay, rate, found, speed, shift, *sizes))
    build.norm(part.norm, f"{role}.norm", found, found, part.heads)
    out = Buffer("delta_gated", width)
    build.ops.append(tape.Gate(gate, found, out, "silu"))
    return out


def mamba2(build: Builder, role: str, part: Mamba2, source: Buffer) -> Buffer:
    """Append a scan of Mamba-2; the buffer that the last matrix meets."""
    width, shared = part.heads * part.head_dim, part.groups * part.state_size
    mixed, gate = Buffer("mamba_mixed", width + 2 * shared), Buffer("mamba_gate", width)
    step, found = Buffer("mamba_step", part.heads), Buffer("mamba_found", width)
    outs = {f"{role}.gate": gate, f"{role}.mixed": mixed, f"{role}.step": step}
    build.linear(source, outs, set(outs) if part.bias else set())
    taps = build.weight(f"{role}.taps.weight", part.reach * mixed.width)
    bias = build.weight(f"{role}.taps.bias", mixed.width) if part.taps_bias else None
    carry(build, tape.ShortConv(len(build.caches), mixed, mixed, taps, part.reach, bias=bias, activation="silu"))
    speed, shift, skip = (build.weight(f"{role}.{name}", part.heads) for name in ("speed", "shift", "skip"))
    sizes = part.heads, part.groups, part.head_dim, part.state_size
    limits = part.least_step, part.most_step or float("inf")
    carry(build, tape.Mamba2(len(build.caches), mixed, step, found, speed, shift, skip, *sizes, *limits))
    if part.norm_first:
        build.norm(part.norm, f"{role}.norm", found, found, part.groups, own=True)
    out = Buffer("mamba_gated", width)
    build.ops.append(tape.Gate(gate, found, out, "silu"))
    if not part.norm_first:
        build.norm(part.norm, f"{role}.norm", out, out, part.groups, own=True)
    return out


def carry(build: Builder, op: tape.ShortConv | tape.GatedDelta | tape.Mamba2) -> None:
    """Append an operation and its state."""
    build.ops.append(op)
    build.caches.append(StateSpec(op.state_shape))
