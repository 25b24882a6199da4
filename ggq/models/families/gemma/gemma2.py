"""Gemma 2: Llama with norms behind attention and feed-forward too, whose weights are stored less 1, GELU, soft caps of
scores and logits, a scaled embedding, a scale of scores of its own, and a window in every other layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from ggq.models import decoder
from ggq.models.config import Config, Keys, Only, OrNull
from ggq.models.config_rope import read_rope
from ggq.models.family import Family, checkpoint_name
from ggq.models.names import Expression, Plus, Tensor
from ggq.models.parts import ModelSpec
from ggq.models.rope import Rope

KEYS: Keys = {
    **decoder.base_without("hidden_act"),
    "num_key_value_heads": OrNull(4),
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": OrNull(4096),
    "layer_types": OrNull(),
    "final_logit_softcapping": OrNull(30.0),
    "attn_logit_softcapping": OrNull(50.0),
    "use_bidirectional_attention": Only(False),
}

MODULES = decoder.MODULES | {
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


def parts(config: Config, *, full_every: int = 2, rope: Callable[..., Rope] = read_rope) -> ModelSpec:
    """The model of a config.json, in which the last of so many layers has no window."""
    norm, spec = decoder.rms_norm(config), decoder.read_decoder(config, rope=rope)
    spec = decoder.with_layers(spec, mixer_post_norm=norm, feed_forward_post_norm=norm)
    scale = config.number("query_pre_attn_scalar", (0.0, 1e6)) ** -0.5
    spec = decoder.with_mixers(spec, scale=scale, softcap=decoder.read_softcap(config, "attn_logit_softcapping"))
    windows = decoder.layer_windows(config, decoder.read_window(config), slides=lambda n: (n + 1) % full_every != 0)
    embedding = replace(spec.embedding, scale=math.sqrt(spec.hidden_size))
    head = replace(spec.head, softcap=decoder.read_softcap(config, "final_logit_softcapping"))
    return decoder.with_windows(replace(spec, embedding=embedding, head=head), windows)


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    tensor = Tensor(checkpoint_name(role, MODULES))
    return Plus(tensor) if role.endswith("norm.weight") else tensor


GEMMA2 = Family(("Gemma2ForCausalLM", "Gemma2Model"), ("gemma2",), KEYS, parts, expression, decoder.constants)
