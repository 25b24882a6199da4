"""Decoders each of whose layers has numbers of its own for every token (`ggq.models.parts`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ggq.models.field import Flag, Integer, Number, Part
from ggq.models.parts import ACTIVATION, ModelSpec, Norm


@dataclass(frozen=True)
class LayerInputs:
    """Numbers of each token for each layer: (a row of a table + norm(a product of its embedding)), which a layer's
    result gates: x + post_norm(o(activation(gate(x)) * numbers))."""

    kind: ClassVar[str] = "layer_inputs"
    width: Annotated[int, Integer(1, 1 << 16, "numbers for one layer; the table has so many times the layers")]
    table_scale: Annotated[float, Number(0.0, 1e6, "the table's numbers are multiplied with it")]
    product_scale: Annotated[float, Number(0.0, 1e6, "the product is multiplied with it, before its norm")]
    sum_scale: Annotated[float, Number(0.0, 1e6, "the sum is multiplied with it")]
    norm: Annotated[Norm, Part("norm of the product, the part of each layer on its own, with the same weights")]
    activation: Annotated[str, ACTIVATION]
    post_norm: Annotated[Norm, Part("norm of what is added to a layer's result")]


@dataclass(frozen=True)
class LayeredSpec(ModelSpec):
    """A decoder whose layers may have inputs of their own for every token, and scales of their results."""

    inputs: Annotated[LayerInputs | None, Part("what layers take besides the row")]
    layer_scales: Annotated[bool, Flag("each layer's result is multiplied with a number of its own")]
