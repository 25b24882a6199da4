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
    **dict.fromkeys(("num_kv_heads", "ffn_hidden_size", "num_ln_in_parallel_attn"), OrNull()),
    **dict.fromkeys(("new_decoder_architecture", "bias"), False),
    **dict.fromkeys(("multi_query", "parallel_attn", "tie_word_embeddings"), True),
    "layer_norm_epsilon": 1e-5,
    "activation": "gelu",
    "hidden_dropout": ANY,
    "alibi": Only(False),
}

OUTER = {"embedding": "transformer.word_embeddings", "norm": "transformer.ln_f", "output": "lm_head"}
FUSED = dict.fromkeys(("attention.q", "attention.k", "attention.v"), "self_attention.query_key_value")
INNER = {"attention.o": "self_attention.dense", "mlp.up": "mlp.dense_h_to_4h", "mlp.down": "mlp.dense_4h_to_h"}
MODULES = OUTER | FUSED | INNER | {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    norm, bias = Norm("layer", config.take("layer_norm_epsilon", Norm, "epsilon"), True, True), config.flag("bias")
    new, width = config.flag("new_decoder_architecture"), config.maybe("ffn_hidden_size", Mlp, "width")
    activation = decoder.ACTIVATIONS[config.choice("activation", tuple(decoder.ACTIVATIONS))]
    inner = Mlp(width or 4 * config.integer("hidden_size", (1, 1 << 20)), activation, gated=False, bias=bias)
    shared, alone = config.maybe("num_kv_heads", Attention, "kv_heads"), config.flag("multi_query") and not new
    biases = dict.fromkeys(("query_bias", "key_bias", "value_bias", "output_bias"), bias)
    spec = decoder.read_decoder(config, norm, feed_forward=inner)
    spec = decoder.with_mixers(spec, kv_heads=1 if alone else shared or spec.layers[0].attention.heads, **biases)
    one = config.get("num_ln_in_parallel_attn") is not None and config.integer("num_ln_in_parallel_attn", (1, 2)) == 1
    beside = config.flag("parallel_attn") or new
    return decoder.with_layers(spec, feed_forward_norm=None if beside and (one or not new) else norm, parallel=beside)


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role: of query, key or value the rows of each group, or a tensor by its name in a checkpoint."""
    two = spec.layers[0].parallel and spec.layers[0].feed_forward_norm is not None
    modules = MODULES | ({"attention_norm": "ln_attn", "mlp_norm": "ln_mlp"} if two else {})
    tensor, module = Tensor(checkpoint_name(role, modules, "transformer.h")), role.split(".")[-2]
    if module not in ("q", "k", "v"):
        return tensor
    mixer = spec.layers[0].attention
    width, share = mixer.head_dim, mixer.heads // mixer.kv_heads
    start, stop = {"q": (0, share), "k": (share, share + 1), "v": (share + 1, share + 2)}[module]
    return Interleaved(tensor, (share + 2) * width, start * width, stop * width)


TIED = partial(decoder.tied_output, expression=expression)
FALCON = Family(("FalconForCausalLM", "FalconModel"), ("falcon",), KEYS, parts, expression, TIED)
