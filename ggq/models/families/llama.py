"""Llama: RMS norms before, grouped-query attention with RoPE, a gated SiLU feed-forward; and what others vary of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ggq.models.config import ANY, REQUIRED, Config, Keys, OrNull
from ggq.models.config_rope import read_rope
from ggq.models.family import Family, TensorSpec, checkpoint_name
from ggq.models.names import Expression, Tensor
from ggq.models.parts import MOST_LAYERS, Attention, Embedding, Head, Layer, Mlp, ModelSpec, Norm

SIZES: Keys = dict.fromkeys(
    ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), REQUIRED
)
"""Sizes that every config.json has to say."""

KEYS: Keys = {
    **SIZES,
    "num_key_value_heads": OrNull(),
    "head_dim": OrNull(),
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "pretraining_tp": ANY,  # how training split matrices: the sums are the same
}

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

ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "relu2": "relu2"}
"""Names that transformers has for an activation, and ours."""


def decoder(config: Config) -> ModelSpec:
    """The model of a config.json with Llama's keys, as far as the family has them, and its own defaults."""
    context = config.take("max_position_embeddings", ModelSpec, "context_length")
    norm = rms_norm(config)
    layer = Layer(
        mixer=attention(config, context),
        feed_forward=mlp(config),
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


def attention(config: Config, context: int) -> Attention:
    """Attention, all heads of which turn, over all positions."""
    heads = config.take("num_attention_heads", Attention, "heads")
    hidden = config.take("hidden_size", Embedding, "width")
    head_dim = config.maybe("head_dim", Attention, "head_dim")
    if head_dim is None and hidden % heads:
        raise config.error("num_attention_heads", f"{heads} heads do not divide the hidden size {hidden}")
    head_dim = head_dim or hidden // heads
    bias = "attention_bias" in config.keys and config.flag("attention_bias")
    return Attention(
        heads=heads,
        kv_heads=config.maybe("num_key_value_heads", Attention, "kv_heads") or heads,
        head_dim=head_dim,
        scale=1 / math.sqrt(head_dim),
        rope=read_rope(config, head_dim, context),
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
    """A gated feed-forward."""
    key = "hidden_act" if "hidden_act" in config.keys else "hidden_activation"
    return Mlp(
        width=config.take("intermediate_size", Mlp, "width"),
        activation=ACTIVATIONS[config.choice(key, tuple(ACTIVATIONS))],
        gated=True,
        bias="mlp_bias" in config.keys and config.flag("mlp_bias"),
    )


def rms_norm(config: Config) -> Norm:
    """RMS norm with weights."""
    return Norm("rms", config.take("rms_norm_eps", Norm, "epsilon"), weight=True, bias=False)


def each_layer(spec: ModelSpec, change: Callable[[int, Layer], Layer]) -> ModelSpec:
    """The model with changed layers, given the number of each."""
    return replace(spec, layers=tuple(change(number, layer) for number, layer in enumerate(spec.layers)))


def each_mixer(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """The model with changed fields of every layer's mixer."""
    return each_layer(spec, lambda _, layer: replace(layer, mixer=replace(layer.mixer, **changes)))


def expression(role: str) -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    return Tensor(checkpoint_name(role, MODULES))


def constants(spec: ModelSpec) -> list[TensorSpec]:
    """An output matrix that is tied, and constants that transformers 4.30 saved."""
    specs = []
    if spec.head.tied:
        shape = (spec.vocabulary_size, spec.hidden_size)
        specs.append(TensorSpec("", shape, expression("output.weight"), required=False))
    for number, layer in enumerate(spec.layers):
        name = f"model.layers.{number}.self_attn.rotary_emb.inv_freq"
        specs.append(TensorSpec("", (layer.mixer.head_dim // 2,), Tensor(name), required=False))
    return specs


LLAMA = Family(
    names=("LlamaForCausalLM", "LlamaModel"),
    model_types=("llama",),
    keys=KEYS,
    parts=decoder,
    expression=expression,
    constants=constants,
)
