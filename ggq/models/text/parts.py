"""Models that are not only decoders: tokens with a position and a type, that may see all of their text, and a head that
gives logits, or a vector or scores of a whole text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ggq.models.field import Flag, Integer, Part, Parts, Word, declaration
from ggq.models.parts import WIDTH, Embedding, Head, Layer, Mlp, ModelSpec, Norm, Stack

POOLS = ("mean", "first", "last")
"""Which rows of a text become its vector: their mean, the first token's, the last token's."""

DENSE_ACTIVATIONS = (*declaration(Mlp, "activation").words, "tanh", "none")


@dataclass(frozen=True)
class TextEmbedding(Embedding):
    """A row of numbers for each token, to which one for its position and one for the type of its text may be added."""

    positions: Annotated[
        int, Integer(0, 1 << 27, "rows of `positions.weight`, of which each position has one; 0 for none")
    ]
    types: Annotated[
        int, Integer(0, 1 << 8, "rows of `types.weight`: the first text of a pair is of type 0, the second of type 1")
    ]
    norm: Annotated[Norm | None, Part("norm of the sums")]


@dataclass(frozen=True)
class LogitsHead(Head):
    """What makes logits of the last layer's rows."""

    kind: ClassVar[str] = "logits"


@dataclass(frozen=True)
class Dense:
    """A matrix, then an activation, then a norm: norm(activation(matrix @ x + bias))."""

    kind: ClassVar[str] = "dense"
    width: Annotated[int, Integer(1, WIDTH, "numbers of the result")]
    bias: Annotated[bool, Flag("a bias is added")]
    activation: Annotated[
        str,
        Word(
            DENSE_ACTIVATIONS,
            f"{declaration(Mlp, 'activation').doc}; `tanh`: (e^x - e^-x) / (e^x + e^-x); `none`: x",
        ),
    ]
    norm: Annotated[Norm | None, Part("norm of the result")]


@dataclass(frozen=True)
class VectorHead:
    """What makes a vector, or scores, of the last layer's rows: one row or their mean, then up to two matrices."""

    kind: ClassVar[str] = "vector"
    norm: Annotated[Norm | None, Part("norm of the rows")]
    pool: Annotated[
        str,
        Word(
            POOLS,
            "`mean`: the mean of all rows of a text; `first`: its first token's row; `last`: its last token's row",
        ),
    ]
    dense: Annotated[Dense | None, Part("what is made of that")]
    output: Annotated[Dense | None, Part("what is made of the result")]
    scores: Annotated[bool, Flag("true: the numbers are scores of a text; false: they are a vector")]
    normalized: Annotated[bool, Flag("the numbers are divided by the root of the sum of their squares")]


@dataclass(frozen=True)
class TextSpec(Stack):
    """A stack of layers that reads texts."""

    embedding: Annotated[TextEmbedding, Part("what a token becomes")]
    layers: Annotated[tuple[Layer, ...], Parts("in order")]
    head: Annotated[LogitsHead | VectorHead, Part("what is made of the last layer's rows")]
    causal: Annotated[
        bool,
        Flag(
            "true: a token sees none behind its own; false: it sees its whole text, or with a window as many positions "
            "behind as before"
        ),
    ]
    normed_sums: Annotated[
        bool,
        Flag("true: the post norms of layers are of the row after the addition: post_norm(x + scale * mixer(norm(x)))"),
    ]

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        if 0 < self.embedding.positions < self.context_length:
            return f"{self.embedding.positions} positions have a row, and a text may have {self.context_length} tokens"
        return None


def head_of(spec: Stack) -> Head | VectorHead:
    """What a model makes of its last layer's rows."""
    assert isinstance(spec, ModelSpec | TextSpec)
    return spec.head
