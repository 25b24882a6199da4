"""Norms and attention, in all forms, as parts of a model (`ggq.models.parts`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ggq.models.field import Flag, Integer, Number, Part, Word
from ggq.models.rope import Rope
from ggq.tape.ops.norm import KINDS

WIDTH = 1 << 20
"""Most numbers per token between layers. Bounds are far above any model known, far below what overflows."""

HEADS = 1 << 14


@dataclass(frozen=True)
class Norm:
    """Numbers of a row divided by their root mean square, then scaled and shifted."""

    kind: Annotated[
        str,
        Word(KINDS, "`rms`: x / sqrt(mean(x^2) + epsilon) * weight; `layer`: the same of x - mean(x)"),
    ]
    epsilon: Annotated[float, Number(0.0, 1.0, "added to the mean square")]
    weight: Annotated[bool, Flag("each number is multiplied with one of its own")]
    bias: Annotated[bool, Flag("to each number one of its own is added")]


@dataclass(frozen=True)
class Attention:
    """Causal softmax attention with key-value heads that several query heads share."""

    kind: ClassVar[str] = "attention"
    role: ClassVar[str] = "attention"
    heads: Annotated[int, Integer(1, HEADS, "query heads")]
    kv_heads: Annotated[int, Integer(1, HEADS, "key and value heads; divides `heads`")]
    head_dim: Annotated[int, Integer(2, 1 << 13, "numbers per head")]
    scale: Annotated[float, Number(0.0, 1e6, "products of query and key are multiplied with it")]
    rope: Annotated[Rope | None, Part("how queries and keys turn with their position")]
    window: Annotated[int, Integer(0, 1 << 27, "positions that a token sees, its own included; 0: all before it")]
    softcap: Annotated[
        float, Number(0.0, 1e6, "scaled scores x become softcap * tanh(x / softcap); 0: they stay", zero=True)
    ]
    sinks: Annotated[bool, Flag("each query head has one more score, which takes part in the softmax and has no value")]
    query_bias: Annotated[bool, Flag("q has a bias")]
    key_bias: Annotated[bool, Flag("k has a bias")]
    value_bias: Annotated[bool, Flag("v has a bias")]
    output_bias: Annotated[bool, Flag("o has a bias")]
    query_norm: Annotated[Norm | None, Part("norm of the queries")]
    key_norm: Annotated[Norm | None, Part("norm of the keys")]
    normed: Annotated[
        str,
        Word(
            ("head", "row", "turned"),
            "what these two norms take the mean over: `head`: each head, `row`: all heads of a token, `turned`: each "
            "head, after RoPE instead of before",
        ),
    ]

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        if self.heads % self.kv_heads:
            return f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly"
        if self.rope is not None and self.rope.rotated > self.head_dim:
            return f"RoPE cannot rotate {self.rope.rotated} of the {self.head_dim} numbers of a head"
        return None


@dataclass(frozen=True)
class GatedAttention(Attention):
    """Attention whose heads' results are multiplied with the sigmoid of another product before the last matrix."""

    kind: ClassVar[str] = "gated_attention"


@dataclass(frozen=True)
class TemperedAttention(Attention):
    """Attention whose queries, after RoPE, are multiplied with 1 + growth * ln(1 + floor(position / period))."""

    kind: ClassVar[str] = "tempered_attention"
    growth: Annotated[float, Number(0.0, 1e6, "how fast queries grow")]
    period: Annotated[int, Integer(1, 1 << 27, "positions after which they grow")]

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        if self.rope is None or self.rope.rotated != self.head_dim or self.normed == "turned":
            return "queries that grow with their position must turn as a whole, after their norm"
        return super().problem()


@dataclass(frozen=True)
class NormedAttention(Attention):
    """Attention the results of whose heads are normed together before the last matrix."""

    kind: ClassVar[str] = "normed_attention"
    output_norm: Annotated[Norm, Part("norm of a row of results")]


@dataclass(frozen=True)
class KeyedAttention(Attention):
    """Attention with a norm of the values' heads, whose values may be what keys are before their norm."""

    kind: ClassVar[str] = "keyed_attention"
    value_norm: Annotated[Norm | None, Part("norm of the heads of values")]
    values: Annotated[str, Word(("own", "keys"), "`own`: values have a matrix; `keys`: they are the product of keys")]


@dataclass(frozen=True)
class SharedAttention(Attention):
    """Attention to the keys and values of an earlier layer, with queries of its own; it has no k and v."""

    kind: ClassVar[str] = "shared_attention"
    source: Annotated[int, Integer(0, 1 << 12, "number of the layer whose keys and values it reads")]


@dataclass(frozen=True)
class LatentAttention:
    """Attention whose keys and values are made of one latent row that all heads share; a part of keys turns."""

    kind: ClassVar[str] = "latent_attention"
    role: ClassVar[str] = "attention"
    heads: Annotated[int, Integer(1, HEADS, "query heads")]
    query_rank: Annotated[int, Integer(0, WIDTH, "numbers of the row that queries are made of; 0: of the input")]
    rank: Annotated[int, Integer(1, WIDTH, "numbers of the latent row")]
    plain_dim: Annotated[int, Integer(1, 1 << 13, "numbers of a head's query and key that do not turn")]
    turned_dim: Annotated[int, Integer(2, 1 << 13, "numbers that turn; of keys, all heads have the same")]
    value_dim: Annotated[int, Integer(1, 1 << 13, "numbers of a head's value")]
    scale: Annotated[float, Number(0.0, 1e6, "products of query and key are multiplied with it")]
    rope: Annotated[Rope, Part("how these turn with their position")]
    norm: Annotated[Norm, Part("norm of the latent row, and of that of queries")]
    bias: Annotated[bool, Flag("the first matrices of latent rows have biases")]
    output_bias: Annotated[bool, Flag("o has a bias")]

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        if self.rope.rotated != self.turned_dim:
            return f"RoPE must rotate all of the {self.turned_dim} numbers that turn, not {self.rope.rotated}"
        return None
