"""The parts that models are made of, as data with no defaults: what an engine must know, whatever the architecture.

A model is an embedding, layers and a head; a layer is a mixer (attention, a short convolution ...) and a feed-forward
with norms around them.
A family's file makes these of a config.json, a file keeps them as metadata (spec/metadata.md), `ggq.models.build` makes
the program of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from ggq.errors import ModelError
from ggq.models.field import Flag, Integer, Number, Part, Parts, declared
from ggq.models.fields import Fields
from ggq.models.layers.attentions import (
    HEADS,
    WIDTH,
    Attention,
    GatedAttention,
    KeyedAttention,
    LatentAttention,
    Norm,
    NormedAttention,
    SharedAttention,
    TemperedAttention,
)
from ggq.models.layers.feed_forwards import (
    ACTIVATION,
    PLAIN,
    XIELU,
    Experts,
    MixedExperts,
    Mlp,
    NormedMlp,
    Router,
    SparseMlp,
)
from ggq.models.rope import LongRope, Rope

__all__ = [
    "ACTIVATION",
    "HEADS",
    "PLAIN",
    "WIDTH",
    "XIELU",
    "Attention",
    "Embedding",
    "Experts",
    "GatedAttention",
    "GatedDelta",
    "Head",
    "Hybrid",
    "KeyedAttention",
    "LatentAttention",
    "Layer",
    "Mamba2",
    "MixedExperts",
    "Mixer",
    "Mlp",
    "ModelSpec",
    "Norm",
    "NormedAttention",
    "NormedMlp",
    "Router",
    "SharedAttention",
    "ShortConv",
    "SparseMlp",
    "Stack",
    "TemperedAttention",
    "check",
    "ropes",
    "short_contexts",
]

MOST_LAYERS = 4096


@dataclass(frozen=True)
class ShortConv:
    """A causal convolution of each channel over a few tokens between two gates: o(after * conv(before * source))."""

    kind: ClassVar[str] = "conv"
    role: ClassVar[str] = "conv"
    width: Annotated[int, Integer(1, WIDTH, "channels")]
    reach: Annotated[int, Integer(1, 64, "tokens that a result depends on, its own included")]
    bias: Annotated[bool, Flag("the convolution and all of its matrices have biases")]

    @property
    def output_bias(self) -> bool:
        """Whether the last matrix has a bias."""
        return self.bias


@dataclass(frozen=True)
class GatedDelta:
    """A gated delta net: a convolution, the gated delta rule, a norm of each head's result and a gate."""

    kind: ClassVar[str] = "delta"
    role: ClassVar[str] = "delta"
    output_bias: ClassVar[bool] = False
    heads: Annotated[int, Integer(1, HEADS, "heads of values and of the state")]
    key_heads: Annotated[int, Integer(1, HEADS, "heads of queries and keys; divides `heads`")]
    key_dim: Annotated[int, Integer(1, 1 << 13, "numbers of a query and a key")]
    value_dim: Annotated[int, Integer(1, 1 << 13, "numbers of a value")]
    reach: Annotated[int, Integer(1, 64, "tokens that a result of the convolution depends on, its own included")]
    norm: Annotated[Norm, Part("norm of each head's result, before the gate")]

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        if self.heads % self.key_heads:
            return f"{self.heads} heads cannot share {self.key_heads} key heads evenly"
        return None


@dataclass(frozen=True)
class Mamba2:
    """A scan of Mamba-2: a convolution, a state for each head that decays, and a gate before or behind a norm."""

    kind: ClassVar[str] = "mamba2"
    role: ClassVar[str] = "mamba"
    heads: Annotated[int, Integer(1, HEADS, "heads of the state")]
    groups: Annotated[int, Integer(1, HEADS, "groups of heads, which share B and C; divides `heads`")]
    head_dim: Annotated[int, Integer(1, 1 << 13, "numbers of a head")]
    state_size: Annotated[int, Integer(1, 1 << 13, "rows of a head's state")]
    reach: Annotated[int, Integer(1, 64, "tokens that a result of the convolution depends on, its own included")]
    least_step: Annotated[float, Number(0.0, 1e30, "steps are at least this", zero=True)]
    most_step: Annotated[float, Number(0.0, 1e30, "steps are at most this; 0: no bound", zero=True)]
    taps_bias: Annotated[bool, Flag("the convolution has a bias")]
    bias: Annotated[bool, Flag("the first matrices have biases")]
    output_bias: Annotated[bool, Flag("o has a bias")]
    norm: Annotated[Norm | None, Part("norm of the result, each group on its own, with weights for the whole row")]
    norm_first: Annotated[bool, Flag("true: the gate comes behind the norm; false: before it")]

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        if self.heads % self.groups:
            return f"{self.heads} heads cannot share {self.groups} groups evenly"
        if self.most_step and self.most_step < self.least_step:
            return f"steps of at least {self.least_step:g} and at most {self.most_step:g} cannot be"
        return None


@dataclass(frozen=True)
class Hybrid:
    """Attention and a scan beside each other, which take the same row; both results are added to it."""

    kind: ClassVar[str] = "hybrid"
    role: ClassVar[str] = "hybrid"
    attention: Annotated[Attention, Part("the attention")]
    scan: Annotated[Mamba2, Part("the scan")]


Mixer = (
    Attention
    | GatedAttention
    | NormedAttention
    | KeyedAttention
    | SharedAttention
    | TemperedAttention
    | LatentAttention
    | ShortConv
    | GatedDelta
    | Mamba2
    | Hybrid
)
"""Whatever may exchange between tokens."""


@dataclass(frozen=True)
class Layer:
    """A mixer and a feed-forward, whose results are added to the row: x + scale * post_norm(mixer(norm(x)))."""

    mixer: Annotated[Mixer, Part("what exchanges between tokens")]
    feed_forward: Annotated[
        Mlp | NormedMlp | SparseMlp | Experts | MixedExperts | None, Part("what is computed for each token")
    ]
    mixer_norm: Annotated[Norm | None, Part("norm of the mixer's input")]
    mixer_post_norm: Annotated[Norm | None, Part("norm of the mixer's result")]
    feed_forward_norm: Annotated[Norm | None, Part("norm of the feed-forward's input")]
    feed_forward_post_norm: Annotated[Norm | None, Part("norm of the feed-forward's result")]
    parallel: Annotated[
        bool,
        Flag(
            "true: mixer and feed-forward take the same x, and the feed-forward, where it has no norm, the mixer's; "
            "false: the feed-forward takes the mixer's sum"
        ),
    ]
    residual_scale: Annotated[float, Number(0.0, 1e6, "what is added is multiplied with it")]

    @property
    def attention(self) -> Attention:
        """Its mixer, which is attention: whoever asks knows the family."""
        found = self.mixer.attention if isinstance(self.mixer, Hybrid) else self.mixer
        assert isinstance(found, Attention)
        return found

    @property
    def scan(self) -> Mamba2:
        """Its scan of Mamba-2, alone or beside attention: whoever asks knows the family."""
        found = self.mixer.scan if isinstance(self.mixer, Hybrid) else self.mixer
        assert isinstance(found, Mamba2)
        return found

    @property
    def mlp(self) -> Mlp:
        """Its feed-forward, which is an Mlp: whoever asks knows the family."""
        assert isinstance(self.feed_forward, Mlp)
        return self.feed_forward


@dataclass(frozen=True)
class Embedding:
    """A row of numbers for each token of the vocabulary."""

    vocabulary_size: Annotated[int, Integer(1, 1 << 24, "rows of the embedding")]
    width: Annotated[int, Integer(1, WIDTH, "numbers per token between layers")]
    scale: Annotated[float, Number(0.0, 1e6, "its numbers are multiplied with it")]


@dataclass(frozen=True)
class Head:
    """What makes logits of the last layer's rows."""

    norm: Annotated[Norm | None, Part("norm of the rows")]
    tied: Annotated[bool, Flag("true: the embedding is also the output matrix, and there is no `output.weight`")]
    bias: Annotated[bool, Flag("the output matrix has a bias")]
    scale: Annotated[float, Number(0.0, 1e6, "logits are multiplied with it")]
    softcap: Annotated[
        float, Number(0.0, 1e6, "scaled logits x become softcap * tanh(x / softcap); 0: they stay", zero=True)
    ]


@dataclass(frozen=True)
class Stack:
    """What all models have."""

    context_length: Annotated[int, Integer(1, 1 << 27, "tokens that the model was made for")]
    embedding: Annotated[Embedding, Part("what a token becomes")]
    layers: Annotated[tuple[Layer, ...], Parts("in order")]

    @property
    def vocabulary_size(self) -> int:
        """Tokens of the vocabulary."""
        return self.embedding.vocabulary_size

    @property
    def hidden_size(self) -> int:
        """Numbers per token between layers."""
        return self.embedding.width


@dataclass(frozen=True)
class ModelSpec(Stack):
    """A decoder: a stack of layers that predicts the next token."""

    head: Annotated[Head, Part("what makes logits")]


def ropes(spec: Stack) -> list[Rope]:
    """The distinct rotations of a model's layers, in order."""
    mixers = [layer.mixer for layer in spec.layers]
    parts = [each.attention if isinstance(each, Hybrid) else each for each in mixers]
    found = [getattr(part, "rope", None) for part in parts]
    return list(dict.fromkeys(rope for rope in found if rope is not None))


def short_contexts(spec: Stack) -> set[int]:
    """Tokens of the longest text that is turned as a short one; empty where all texts are turned alike."""
    scalings = [rope.scaling for rope in ropes(spec)]
    return {each.original_context_length for each in scalings if isinstance(each, LongRope)}


S = TypeVar("S", bound=Stack)


def check(spec: S, path: str | os.PathLike[str] | None = None) -> S:
    """Check every value of a model against its declaration, and what ties them together.

    Args:
        spec: The model.
        path: The file that it came from, for the message.

    Returns:
        The same model.

    Raises:
        ModelError: A value is out of bounds, heads are not shared evenly, a head cannot be rotated in pairs, the RoPE
            bands overlap ...
        UnsupportedError: A word that this version does not know.
    """
    if not 1 <= len(spec.layers) <= MOST_LAYERS:
        raise ModelError(f"{len(spec.layers)} layers found, 1 to {MOST_LAYERS} allowed", path=path)
    _check(spec, "", path)
    for number, layer in enumerate(spec.layers):
        _check_shared(spec, number, layer, path)
    if len(lengths := short_contexts(spec)) > 1:
        raise ModelError(f"LongRoPE of several original contexts in one model: {sorted(lengths)}", path=path)
    return spec


def _check_shared(spec: Stack, number: int, layer: Layer, path: str | os.PathLike[str] | None) -> None:
    """Refuse attention to keys and values that are not there, or of another form."""
    mixer = layer.mixer
    if not isinstance(mixer, SharedAttention):
        return
    found = spec.layers[mixer.source].mixer if mixer.source < number else None
    sizes = ("kv_heads", "head_dim", "window")
    if not isinstance(found, Attention) or isinstance(found, SharedAttention):
        raise ModelError(f"layer {number} cannot read the keys and values of layer {mixer.source}", path=path)
    if any(getattr(found, size) != getattr(mixer, size) for size in sizes):
        raise ModelError(f"layer {number} has keys and values of another form than layer {mixer.source}", path=path)


def _check(part: Any, key: str, path: str | os.PathLike[str] | None) -> None:
    """Check a part, then its parts."""
    kind: Any = type(part)
    for name, field in declared(kind).items():
        if not field.classes:
            field.declaration.read(Fields({key + name: getattr(part, name)}, path), key + name)  # type: ignore[union-attr]
    problem = part.problem() if hasattr(part, "problem") else None
    if problem is not None:
        raise ModelError(str(problem), path=path)
    for name, field in declared(kind).items():
        held = getattr(part, name)
        for each in dict.fromkeys(held) if isinstance(field.declaration, Parts) else (held,):
            if field.classes and each is not None:
                _check(each, f"{key}{name}.", path)
