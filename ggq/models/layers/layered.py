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
    table_rows: Annotated[
        int,
        Integer(
            0,
            1 << 24,
            "rows of the inputs' table in the source; in a file it has the vocabulary's, the rest are row 0",
        ),
    ]
    layer_scales: Annotated[bool, Flag("each layer's result is multiplied with a number of its own")]


@dataclass(frozen=True)
class StreamedSpec(LayeredSpec):
    """A decoder whose row is several parallel ones (AltUp), of which a layer computes one: with h its streams, it takes
    p[k] = h[k] + sum over i of prediction[k, i] h[i], makes y of x = p[active], and gives p[k] + correction[k] (y - x).

    Both are products of tanh(scale * router(norm(row))): prediction of that of h[active], correction, plus 1, of that
    of y. y is computed as in other layers, but for r = norm(x): (x + attention + r + laurel(r)) * laurel_scale instead
    of x + attention. What a layer's inputs give is added to all streams but the first.
    The streams are the token's row and products of it, the last row is the mean of the first stream and products of
    the others; each product is multiplied by sqrt(mean(first^2) / max(mean(product^2), least)), of the first stream.
    """

    streams: Annotated[int, Integer(2, 64, "parallel rows")]
    active: Annotated[int, Integer(0, 63, "the one that layers compute; below `streams`")]
    router_scale: Annotated[float, Number(0.0, 1e6, "what the router's tanh meets is multiplied with it")]
    least: Annotated[float, Number(0.0, 1.0, "least mean square that a product is divided by")]
    output_scale: Annotated[
        bool, Flag("the row that meets a layer's inputs is multiplied with a number for each column")
    ]
    laurel_rank: Annotated[int, Integer(1, 1 << 16, "numbers between the two matrices of laurel")]
    laurel_scale: Annotated[float, Number(0.0, 1e6, "the sum with laurel's result is multiplied with it")]
    stream_norm: Annotated[Norm, Part("norm of what routers meet, and of laurel's result")]

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        if self.active >= self.streams:
            return f"stream {self.active} cannot be computed: there are {self.streams}"
        return "a model of several streams has inputs of its layers" if self.inputs is None else None
