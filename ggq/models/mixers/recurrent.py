"""Operations of mixers that carry a state from token to token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggq.models.parts import ShortConv
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


def carry(build: Builder, op: tape.ShortConv) -> None:
    """Append an operation and its state."""
    build.ops.append(op)
    build.caches.append(StateSpec(op.state_shape))
