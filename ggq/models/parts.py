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
from ggq.models.field import Flag, Integer, Number, Part, Parts, Word, declared
from ggq.models.fields import Fields
from ggq.models.rope import Rope
from ggq.tape.ops.activations import CLAMPED, WITHOUT_GATE
from ggq.tape.ops.norm import KINDS
from ggq.tape.ops.route import MOST_EXPERTS, MOST_GROUPS, SCORES

MOST_LAYERS = 4096

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
class NormedAttention(Attention):
    """Attention the results of whose heads are normed together before the last matrix."""

    kind: ClassVar[str] = "normed_attention"
    output_norm: Annotated[Norm, Part("norm of a row of results")]


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


MEANINGS = (
    "`silu`: x / (1 + exp(-x)); `gelu_tanh`: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); "
    "`gelu`: x (1 + erf(x / sqrt(2))) / 2; `relu`: max(x, 0); `relu2`: max(x, 0)^2"
)
ACTIVATION = Word(WITHOUT_GATE, MEANINGS)


@dataclass(frozen=True)
class Hybrid:
    """Attention and a scan beside each other, which take the same row; both results are added to it."""

    kind: ClassVar[str] = "hybrid"
    role: ClassVar[str] = "hybrid"
    attention: Annotated[Attention, Part("the attention")]
    scan: Annotated[Mamba2, Part("the scan")]


@dataclass(frozen=True)
class Mlp:
    """A feed-forward of two or three matrices."""

    kind: ClassVar[str] = "mlp"
    role: ClassVar[str] = "mlp"
    width: Annotated[int, Integer(1, 1 << 22, "numbers between the matrices")]
    activation: Annotated[
        str,
        ACTIVATION,
    ]
    gated: Annotated[bool, Flag("true: down(activation(gate(x)) * up(x)); false: down(activation(up(x)))")]
    bias: Annotated[bool, Flag("all of its matrices have biases")]


@dataclass(frozen=True)
class NormedMlp(Mlp):
    """A feed-forward with a norm of what its last matrix meets."""

    kind: ClassVar[str] = "normed_mlp"
    inner_norm: Annotated[Norm, Part("norm before the last matrix")]


@dataclass(frozen=True)
class Router:
    """Which experts a token goes through, and how much of each it takes: their scores."""

    score: Annotated[
        str, Word(SCORES, "what logits become; `softmax`: one over all experts; `sigmoid`: the sigmoid of each")
    ]
    bias: Annotated[bool, Flag("the router's matrix has a bias")]
    correction: Annotated[bool, Flag("to choose, each expert's number is added to its score")]
    groups: Annotated[int, Integer(1, MOST_GROUPS, "groups of consecutive experts, of equal size; divides `count`")]
    chosen_groups: Annotated[int, Integer(1, MOST_GROUPS, "groups from which experts are chosen; at most `groups`")]
    best: Annotated[int, Integer(1, 2, "groups are chosen by the sum of so many of their best")]
    least: Annotated[float, Number(0.0, 1.0, "added to the sum of chosen scores that they are divided by", zero=True)]
    factors: Annotated[bool, Flag("shares are multiplied with a number of each expert")]


PLAIN = Router("softmax", False, False, 1, 1, 1, 0.0, False)
"""A softmax of logits without a bias."""


@dataclass(frozen=True)
class Experts:
    """Feed-forwards, down(activation(gate(x)) * up(x)), of which a router chooses a few for each token."""

    kind: ClassVar[str] = "experts"
    role: ClassVar[str] = "experts"
    count: Annotated[int, Integer(1, MOST_EXPERTS, "experts")]
    chosen: Annotated[int, Integer(1, MOST_EXPERTS, "experts of a token; at most `count`")]
    width: Annotated[int, Integer(1, 1 << 22, "numbers between the matrices of an expert")]
    activation: Annotated[
        str,
        Word(
            (*WITHOUT_GATE, CLAMPED),
            f"{MEANINGS}; `clamped_swiglu`: with g = min(gate(x), 7) and u = up(x) held within -7 and 7, "
            "(u + 1) g / (1 + exp(-1.702 g))",
        ),
    ]
    gated: Annotated[bool, Flag("false: down(activation(up(x)))")]
    bias: Annotated[bool, Flag("all matrices of the experts have biases")]
    router: Annotated[Router, Part("what chooses")]
    renormalised: Annotated[bool, Flag("shares are divided by the sum of those of the chosen experts")]
    scale: Annotated[float, Number(0.0, 1e6, "shares are multiplied with it")]
    shared_width: Annotated[
        int, Integer(0, 1 << 22, "numbers between the matrices of an expert that all tokens go through; 0: none")
    ]
    shared_gate: Annotated[bool, Flag("its share is the sigmoid of a product with one row; false: 1")]

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        if self.chosen > self.count:
            return f"a token cannot go through {self.chosen} of {self.count} experts"
        if self.shared_gate and not self.shared_width:
            return "a gate of a shared expert, and no shared expert"
        if self.shared_gate and (self.bias or not self.gated):
            return "a shared expert with a gate is gated and without biases as all others are"
        if self.activation == CLAMPED and not self.gated:
            return f"{CLAMPED} needs gates"
        size, odd = divmod(self.count, self.router.groups)
        if odd or self.router.best > size:
            return f"{self.count} experts are not {self.router.groups} groups of {self.router.best} or more"
        if not self.router.chosen_groups <= self.router.groups or self.chosen > size * self.router.chosen_groups:
            return f"{self.chosen} experts cannot be chosen from {self.router.chosen_groups} groups of {size}"
        return None


@dataclass(frozen=True)
class Layer:
    """A mixer and a feed-forward, whose results are added to the row: x + scale * post_norm(mixer(norm(x)))."""

    mixer: Annotated[
        Attention | GatedAttention | NormedAttention | ShortConv | GatedDelta | Mamba2 | Hybrid,
        Part("what exchanges between tokens"),
    ]
    feed_forward: Annotated[Mlp | NormedMlp | Experts | None, Part("what is computed for each token")]
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
    return spec


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
