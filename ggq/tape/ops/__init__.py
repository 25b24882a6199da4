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
from ggq.tape.ops.plain.scale_columns import ScaleColumns
from ggq.tape.ops.plain.select import Select
from ggq.tape.ops.plain.slice import Slice
from ggq.tape.ops.recurrent.gated_delta import GatedDelta
from ggq.tape.ops.recurrent.mamba2 import Mamba2
from ggq.tape.ops.recurrent.short_conv import ShortConv
from ggq.tape.ops.rope import Rope
from ggq.tape.ops.route import Route
from ggq.tape.ops.softcap import SoftCap
from ggq.tape.ops.streams.blend import Blend
from ggq.tape.ops.streams.gaussian_top_k import GaussianTopK
from ggq.tape.ops.streams.rescale import Rescale
from ggq.tape.ops.xielu import Xielu

OPS: tuple[type[Operation], ...] = (
    Activate,
    Add,
    Attention,
    Blend,
    Copy,
    Embed,
    Experts,
    Gate,
    GatedDelta,
    GaussianTopK,
    Linear,
    Mamba2,
    Norm,
    Rescale,
    Rope,
    Route,
    Scale,
    ScaleColumns,
    Select,
    ShortConv,
    Slice,
    SoftCap,
    StoreKV,
    Xielu,
)
"""Every operation."""

__all__ = [
    "OPS",
    "Activate",
    "Add",
    "Attention",
    "Blend",
    "Copy",
    "Embed",
    "Experts",
    "Gate",
    "GatedDelta",
    "GaussianTopK",
    "Linear",
    "Mamba2",
    "Norm",
    "Operation",
    "Product",
    "Rescale",
    "Rope",
    "Route",
    "Scale",
    "ScaleColumns",
    "Select",
    "ShortConv",
    "Slice",
    "SoftCap",
    "StoreKV",
    "Xielu",
]
