"""How rows of tokens become the vector of a text, and the model that does so made of one that does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ggq.models.build import role_shapes
from ggq.models.family import TensorSpec
from ggq.models.names import Tensor
from ggq.models.parts import Embedding, Head, Stack
from ggq.models.text.parts import Dense, TextEmbedding, TextSpec, VectorHead, head_of


@dataclass(frozen=True)
class Pooling:
    """What is asked of a model besides its config.json.

    Args:
        pool: Which rows become the vector; None to leave a model that gives vectors as it is.
        normalized: Whether vectors have length 1.
        context_length: Tokens of a text, if fewer than the model's.
        dense: Up to two matrices behind that, with what the names of their tensors begin with in a checkpoint.
    """

    pool: str | None
    normalized: bool
    context_length: int | None = None
    dense: tuple[tuple[Dense, str], ...] = ()


def with_pooling(spec: Stack, pooling: Pooling) -> TextSpec:
    """The model that gives vectors as asked for; of one that gives logits, with the same layers."""
    head: Head | VectorHead = head_of(spec)
    if isinstance(head, VectorHead):
        pool = pooling.pool or head.pool
        head = head if head.scores else replace(head, pool=pool, normalized=pooling.normalized)
    else:
        head = VectorHead(head.norm, pooling.pool or "last", None, None, scores=False, normalized=pooling.normalized)
    if pooling.dense:
        first, second = (*(part for part, _ in pooling.dense), None)[:2]
        head = replace(head, dense=first, output=second)
    context = min(spec.context_length, pooling.context_length or spec.context_length)
    if isinstance(spec, TextSpec):
        return replace(spec, head=head, context_length=context)
    embedding: Embedding = spec.embedding
    return TextSpec(
        context_length=context,
        embedding=TextEmbedding(
            embedding.vocabulary_size, embedding.width, embedding.scale, positions=0, types=0, norm=None
        ),
        layers=spec.layers,
        head=head,
        causal=True,
        normed_sums=False,
    )


def pooled_tensors(specs: Sequence[TensorSpec], spec: TextSpec, pooling: Pooling) -> tuple[TensorSpec, ...]:
    """The tensors of a checkpoint; those that the model has no role for, such as an output matrix, mean nothing."""
    shapes = role_shapes(spec)
    names = {name: where for name, (_, where) in zip(("dense", "output"), pooling.dense)}
    own = [role for role in shapes if role.split(".")[0] in names]
    known = shapes.keys() - set(own)
    kept = (each if each.role in known else replace(each, role="", required=False) for each in specs)
    more = (TensorSpec(role, shapes[role], Tensor(f"{names[a]}.{b}")) for role in own for a, b in [role.split(".")])
    return (*kept, *more)
