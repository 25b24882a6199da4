"""Decoders that give scores of texts instead of logits, such as rerankers: a matrix meets the last token's row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ggq.models.config import Config
from ggq.models.family import Family, TensorSpec
from ggq.models.names import Expression, Tensor
from ggq.models.parts import ModelSpec, Stack
from ggq.models.text.encoder import SCORES, gives_scores, labels
from ggq.models.text.parts import Dense, TextSpec, VectorHead
from ggq.models.text.pooling import Pooling, with_pooling


def with_scores(family: Family) -> Family:
    """The family with its class that gives scores: `XForSequenceClassification` beside `XForCausalLM`."""
    plain: Callable[[Config], Stack] = family.parts

    def parts(config: Config) -> Stack:
        spec = plain(config)
        if not gives_scores(config):
            return spec
        found = with_pooling(spec, Pooling("last", normalized=False))
        assert isinstance(found.head, VectorHead)
        output = Dense(labels(config), bias=False, activation="none", norm=None)
        return replace(found, head=replace(found.head, output=output, scores=True))

    def expression(role: str, spec: Any) -> Expression:
        scores = isinstance(spec, TextSpec) and role == "output.weight"
        return Tensor("score.weight") if scores else family.expression(role, spec)

    def constants(spec: Any) -> list[TensorSpec]:
        return family.constants(spec) if isinstance(spec, ModelSpec) else []

    names = (*family.names, family.names[0].replace("ForCausalLM", SCORES))
    return replace(family, names=names, parts=parts, expression=expression, constants=constants)
