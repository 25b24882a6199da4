"""Operations, one file each. To add one, write its file and list it in OPS."""

from __future__ import annotations

from ggq.tape.ops.activate import Activate
from ggq.tape.ops.attention import Attention, StoreKV
from ggq.tape.ops.embed import Embed
from ggq.tape.ops.experts import Experts
from ggq.tape.ops.gate import Gate
from ggq.tape.ops.linear import Linear
from ggq.tape.ops.norm import Norm
from ggq.tape.ops.operation import Operation, Product
from ggq.tape.ops.plain.add import Add
from ggq.tape.ops.plain.copy import Copy
from ggq.tape.ops.plain.scale import Scale
from ggq.tape.ops.plain.select import Select
from ggq.tape.ops.plain.slice import Slice
from ggq.tape.ops.recurrent.gated_delta import GatedDelta
from ggq.tape.ops.recurrent.mamba2 import Mamba2
from ggq.tape.ops.recurrent.short_conv import ShortConv
from ggq.tape.ops.rope import Rope
from ggq.tape.ops.route import Route
from ggq.tape.ops.softcap import SoftCap

OPS: tuple[type[Operation], ...] = (
    Activate,
    Add,
    Attention,
    Copy,
    Embed,
    Experts,
    Gate,
    GatedDelta,
    Linear,
    Mamba2,
    Norm,
    Rope,
    Route,
    Scale,
    Select,
    ShortConv,
    Slice,
    SoftCap,
    StoreKV,
)
"""Every operation."""

__all__ = [
    "OPS",
    "Activate",
    "Add",
    "Attention",
    "Copy",
    "Embed",
    "Experts",
    "Gate",
    "GatedDelta",
    "Linear",
    "Mamba2",
    "Norm",
    "Operation",
    "Product",
    "Rope",
    "Route",
    "Scale",
    "Select",
    "ShortConv",
    "Slice",
    "SoftCap",
    "StoreKV",
]
