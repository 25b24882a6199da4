"""What families share: a config.json as a decoder of Llama's shape, the names of its tensors, and ways to change it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ggq.models.config import REQUIRED, Config, Keys, OrNull
from ggq.models.config_rope import read_rope
from ggq.models.family import TensorSpec, checkpoint_name
from ggq.models.fields import shown
from ggq.models.names import Expression, Matrix, Rows, Tensor
from ggq.models.parts import MOST_LAYERS, PLAIN, Attention, Embedding, Experts, Head, Layer, Mixer, Mlp, ModelSpec, Norm
from ggq.models.rope import Rope

BASE: Keys = {
    "vocab_size": REQUIRED,
    "hidden_size": REQUIRED,
    "intermediate_size": REQUIRED,
    "num_hidden_layers": REQUIRED,
    "num_attention_heads": REQUIRED,
    "num_key_value_heads": OrNull(),
    "head_dim": OrNull(),
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
"""What nearly every decoder reads, with Llama's defaults; the sizes must be said."""

MODULES = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "attention_norm": "input_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.o": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
"""Names of modules in a checkpoint; see `checkpoint_name`."""

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
"""Names that transformers has for an activation, and ours."""


def base_without(*keys: str) -> Keys:
    """What nearly every decoder reads, but for some keys."""
    return {key: value for key, value in BASE.items() if key not in keys}


def read_decoder(
    config: Config,
    norm: Norm | None = None,
    layout: str = "half",
    rope: Callable[..., Rope | None] = read_rope,
    feed_forward: Mlp | Experts | None = None,
    mixer: Mixer | None = None,
) -> ModelSpec:
    """The model of a config.json with Llama's keys, as far as the family has them, and its own defaults.

    Args:
        config: The config.json.
        norm: The norm before attention, before the feed-forward and behind the layers; RMS with weights by default.
        layout: How RoPE pairs the numbers of a head.
        rope: What reads the RoPE, with the arguments of `read_rope`.
        feed_forward: That of the layers; what `mlp` reads by default.
        mixer: That of the layers; what `attention` reads by default.
    """
    context = config.take("max_position_embeddings", ModelSpec, "context_length")
    norm = norm or rms_norm(config)
    layer = Layer(
        mixer=mixer or attention(config, context, layout, rope),
        feed_forward=feed_forward or mlp(config),
        mixer_norm=norm,
        mixer_post_norm=None,
        feed_forward_norm=norm,
        feed_forward_post_norm=None,
        parallel=False,
        residual_scale=1.0,
    )
    layers = config.integer("num_hidden_layers", (1, MOST_LAYERS))
    return ModelSpec(
        context_length=context,
        embedding=Embedding(
            vocabulary_size=config.take("vocab_size", Embedding, "vocabulary_size"),
            width=config.take("hidden_size", Embedding, "width"),
            scale=1.0,
        ),
        layers=(layer,) * layers,
        head=Head(norm=norm, tied=config.flag("tie_word_embeddings"), bias=False, scale=1.0, softcap=0.0),
    )


def attention(config: Config, context: int, layout: str, rope: Callable[..., Rope | None]) -> Attention:
    """Attention over all positions, in which the heads turn."""
    heads = config.take("num_attention_heads", Attention, "heads")
    hidden = config.take("hidden_size", Embedding, "width")
    head_dim = config.maybe("head_dim", Attention, "head_dim")
    if head_dim is None and hidden % heads:
        raise config.error("num_attention_heads", f"{heads} heads do not divide the hidden size {hidden}")
    head_dim = head_dim or hidden // heads
    bias = "attention_bias" in config.keys and config.flag("attention_bias")
    kv_heads = config.maybe("num_key_value_heads", Attention, "kv_heads") or heads
    return plain_attention(heads, kv_heads, head_dim, rope(config, head_dim, context, layout), bias)


def plain_attention(heads: int, kv_heads: int, head_dim: int, rope: Rope | None, bias: bool) -> Attention:
    """Attention over all positions, with biases everywhere or nowhere, and nothing else."""
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=1 / math.sqrt(head_dim),
        rope=rope,
        window=0,
        softcap=0.0,
        sinks=False,
        query_bias=bias,
        key_bias=bias,
        value_bias=bias,
        output_bias=bias,
        query_norm=None,
        key_norm=None,
        normed="head",
    )


def mlp(config: Config) -> Mlp:
    """A gated feed-forward, with SiLU where the family has no key for its activation."""
    found = [key for key in ("hidden_activation", "hidden_act") if key in config.keys]
    width = "shared_intermediate_size" if "shared_intermediate_size" in config.keys else "intermediate_size"
    return Mlp(
        width=config.take(width, Mlp, "width"),
        activation=ACTIVATIONS[config.choice(found[0], tuple(ACTIVATIONS))] if found else "silu",
        gated=True,
        bias="mlp_bias" in config.keys and config.flag("mlp_bias"),
    )


def experts(config: Config) -> Experts:
    """Experts that a softmax chooses, none of them for all tokens."""
    width = "moe_intermediate_size" if "moe_intermediate_size" in config.keys else "intermediate_size"
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    count = next(name for name in names if name in config.keys)
    has_word = "hidden_act" in config.keys
    return Experts(
        count=config.take(count, Experts, "count"),
        chosen=config.take("num_experts_per_tok", Experts, "chosen"),
        width=config.take(width, Experts, "width"),
        activation=ACTIVATIONS[config.choice("hidden_act", tuple(ACTIVATIONS))] if has_word else "silu",
        gated=True,
        bias=False,
        router=PLAIN,
        renormalised="norm_topk_prob" not in config.keys or config.flag("norm_topk_prob"),
        scale=1.0,
        shared_width=0,
        shared_gate=False,
    )


def with_experts(spec: ModelSpec, config: Config, mixture: Experts) -> ModelSpec:
    """The model with experts in every layer whose number is a multiple of "decoder_sparse_step", counted from 1, and
    not in "mlp_only_layers"."""
    step, dense = config.integer("decoder_sparse_step", (1, MOST_LAYERS)), config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(number) is int for number in dense):
        raise config.error("mlp_only_layers", f"{shown(dense)} found, a list of layers' numbers expected")
    chosen = ((number + 1) % step == 0 and number not in dense for number in range(len(spec.layers)))
    layers = (replace(each, feed_forward=mixture) if has else each for each, has in zip(spec.layers, chosen))
    return replace(spec, layers=tuple(layers))


def layer_kinds(config: Config, kinds: Sequence[str], usual: Callable[[int], str]) -> list[str]:
    """What kind each layer is of: by "layer_types" where that is there, else as is usual for a layer of its number."""
    count, types = config.integer("num_hidden_layers", (1, MOST_LAYERS)), config.get("layer_types")
    if types is None:
        return [usual(number) for number in range(count)]
    if not isinstance(types, list) or len(types) != count:
        raise config.error("layer_types", f"{shown(types)} found, a list of {count} kinds of layers expected")
    for kind in types:
        if kind not in kinds:
            raise config.unsupported("layer_types", f"{shown(kind)} is not supported; supported: {', '.join(kinds)}")
    return types


def layer_windows(config: Config, window: int | None, *, slides: Callable[[int], bool]) -> list[int]:
    """How many positions a token sees in each layer, 0 for all: by "layer_types" where that is there.

    Args:
        config: The config.json.
        window: Of the layers that have one; None if no layer can.
        slides: Whether the layer of a number has one where nothing is said.
    """
    kinds = ("full_attention", "sliding_attention")
    types = layer_kinds(config, kinds, lambda number: kinds[slides(number)])
    if window is None and kinds[1] in types:
        raise config.error("layer_types", f"{kinds[1]} found, and no window in use")
    return [window or 0 if kind == kinds[1] else 0 for kind in types]


def read_window(config: Config, *, used: bool = True) -> int | None:
    """The positions that a token sees where attention slides, its own included; None where it is not used."""
    return None if config.get("sliding_window") is None or not used else config.integer("sliding_window", (1, 1 << 27))


def read_softcap(config: Config, key: str) -> float:
    """The bound of a soft cap; 0 for none."""
    return 0.0 if config.get(key) is None else config.number(key, (0.0, 1e6))


def rms_norm(config: Config, epsilon: str = "rms_norm_eps") -> Norm:
    """RMS norm with weights, whose epsilon is under a key."""
    return Norm("rms", config.take(epsilon, Norm, "epsilon"), weight=True, bias=False)


def with_windows(spec: ModelSpec, windows: Sequence[int]) -> ModelSpec:
    """The model whose layers see so many positions each."""
    mixers = [replace(layer.attention, window=window) for layer, window in zip(spec.layers, windows, strict=True)]
    layers = (replace(layer, mixer=mixer) for layer, mixer in zip(spec.layers, mixers, strict=True))
    return replace(spec, layers=tuple(layers))


def with_ropes(spec: ModelSpec, sliding: Rope | None, full: Rope | None) -> ModelSpec:
    """The model whose layers turn heads in one way where they have windows, and in another where they have none."""
    mixers = (replace(each.attention, rope=sliding if each.attention.window else full) for each in spec.layers)
    return replace(spec, layers=tuple(replace(each, mixer=mixer) for each, mixer in zip(spec.layers, mixers)))


def with_mixers(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """The model whose layers' attention has other values of some fields."""
    layers = (replace(layer, mixer=replace(layer.attention, **changes)) for layer in spec.layers)
    return replace(spec, layers=tuple(layers))


def with_layers(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """The model whose layers have other values of some fields."""
    return replace(spec, layers=tuple(replace(layer, **changes) for layer in spec.layers))


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    return Tensor(checkpoint_name(role, MODULES))


def layer_of(role: str, spec: ModelSpec) -> Layer:
    """The layer that a role belongs to."""
    return spec.layers[int(role.split(".")[1])]


def tied_output(spec: ModelSpec, expression: Callable[[str, Any], Expression]) -> list[TensorSpec]:
    """An output matrix that a checkpoint may store although it is tied."""
    shape, output = (spec.vocabulary_size, spec.hidden_size), expression("output.weight", spec)
    return [TensorSpec("", shape, output, required=False)] if spec.head.tied else []


def constants(spec: ModelSpec) -> list[TensorSpec]:
    """An output matrix that is tied, and constants that transformers 4.30 saved."""
    specs = tied_output(spec, expression)
    for number, layer in enumerate(spec.layers):
        rope, name = layer.attention.rope, f"model.layers.{number}.self_attn.rotary_emb.inv_freq"
        specs.append(
            TensorSpec("", ((rope.rotated if rope else layer.attention.head_dim) // 2,), Tensor(name), required=False)
        )
    return specs


_EXPERT = re.compile(r"(?P<place>.*\.experts)\.(?P<number>[0-9]+)\.(?P<kind>gate|up|down)_proj\.weight")


def stacked(plain: Callable[[str, Any], Expression]) -> Callable[[str, Any], Expression]:
    """A family's expressions where each expert has tensors of its own, as they are where none has.

    `X.experts.3.gate_proj.weight` and `up_proj` are the upper and the lower half of matrix 3 of
    `X.experts.gate_up_proj`, `down_proj` is matrix 3 of `X.experts.down_proj`.
    """

    def expression(role: str, spec: Any) -> Expression:
        found = plain(role, spec)
        match = _EXPERT.fullmatch(found.name) if isinstance(found, Tensor) else None
        if match is None:
            return found
        kind, width = match["kind"], spec.layers[int(role.split(".")[1])].feed_forward.width
        name = f"{match['place']}.{'down' if kind == 'down' else 'gate_up'}_proj"
        mine, second = Matrix(Tensor(name), int(match["number"])), kind == "up"
        return mine if kind == "down" else Rows(mine, second * width, (second + 1) * width)

    return expression
