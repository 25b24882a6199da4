"""Falcon: Llama with layer norms, attention and a feed-forward without a gate side by side, under one norm or one each,
query heads that share one key and value, or groups that do, and all of them in one matrix."""

from __future__ import annotations

from functools import partial

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, Only, OrNull
from ggq.models.family import Family, checkpoint_name
from ggq.models.names import Expression, Interleaved, Tensor
from ggq.models.parts import Attention, Mlp, ModelSpec, Norm

KEYS: Keys = {
    **decoder.base_without("num_key_value_heads", "head_dim", "rms_norm_eps", "intermediate_size", "hidden_act"),
    "layer_norm_epsilon": 1e-5,
    **dict.fromkeys(("num_kv_heads", "ffn_hidden_size", "num_ln_in_parallel_attn"), OrNull()),
    "alibi": Only(False),
    "new_decoder_architecture": False,
    **dict.fromkeys(("multi_query", "parallel_attn", "tie_word_embeddings"), True),
    "bias": False,
    "activation": "gelu",
    "hidden_dropout": ANY,
}

MODULES = {
    "embedding": "transformer.word_embeddings",
    "norm": "transformer.ln_f",
    "output": "lm_head",
    **dict.fromkeys(("attention.q", "attention.k", "attention.v"), "self_attention.query_key_value"),
    "attention.o": "self_attention.dense",
    "mlp.up": "mlp.dense_h_to_4h",
    "mlp.down": "mlp.dense_4h_to_h",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    norm, bias = Norm("layer", config.take("layer_norm_epsilon", Norm, "epsilon"), True, True), config.flag("bias")
    new, width = config.flag("new_decoder_architecture"), config.maybe("ffn_hidden_size", Mlp, "width")
    activation = decoder.ACTIVATIONS[config.choice("activation", tuple(decoder.ACTIVATIONS))]
    hidden, heads = config.integer("hidden_size", (1, 1 << 20)), config.take("num_attention_heads", Attention, "heads")
    spec = decoder.read_decoder(config, norm, feed_forward=Mlp(width or 4 * hidden, activation, gated=False, bias=bias))
    one, kv = config.flag("multi_query") and not new, config.maybe("num_kv_heads", Attention, "kv_heads") or heads
    biases = dict.fromkeys(("query_bias", "key_bias", "value_bias", "output_bias"), bias)
    spec = decoder.with_mixers(spec, kv_heads=1 if one else kv if new else heads, **biases)
    if not (config.flag("parallel_attn") or new):
        return spec
    norms = config.integer("num_ln_in_parallel_attn", (1, 2), 2) if new else 1
    return decoder.with_layers(spec, feed_forward_norm=norm if norms == 2 else None, parallel=True)


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role: of query, key or value the rows of each group, or a tensor by its name in a checkpoint."""
    two = spec.layers[0].parallel and spec.layers[0].feed_forward_norm is not None
    modules = MODULES | ({"attention_norm": "ln_attn", "mlp_norm": "ln_mlp"} if two else {})
    tensor, module = Tensor(checkpoint_name(role, modules, "transformer.h")), role.split(".")[-2]
    if module not in ("q", "k", "v"):
        return tensor
    mixer = decoder.layer_of(role, spec).attention
    share = mixer.heads // mixer.kv_heads
    start, stop = {"q": (0, share), "k": (share, share + 1), "v": (share + 1, share + 2)}[module]
    return Interleaved(tensor, (share + 2) * mixer.head_dim, start * mixer.head_dim, stop * mixer.head_dim)


CONSTANTS = partial(decoder.tied_output, expression=expression)
FALCON = Family(("FalconForCausalLM", "FalconModel"), ("falcon",), KEYS, parts, expression, CONSTANTS)
