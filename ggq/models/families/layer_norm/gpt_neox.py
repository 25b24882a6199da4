"""GPT-NeoX, Pythia: Llama with layer norms and all matrices with biases, query, key and value of a head after the other
in one matrix, RoPE that turns a quarter of each head, a feed-forward without a gate, side by side with attention."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys
from ggq.models.config_rope import read_rope
from ggq.models.family import Family, checkpoint_name
from ggq.models.names import Expression, Interleaved, Tensor
from ggq.models.parts import ModelSpec, Norm

KEYS: Keys = {
    **decoder.base_without("num_key_value_heads", "head_dim", "rms_norm_eps"),
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "attention_bias": True,
    "use_parallel_residual": True,
    "rotary_emb_base": 10000.0,
    "rotary_pct": 0.25,
    **dict.fromkeys(("hidden_dropout", "classifier_dropout", "is_decoder"), ANY),
}

MODULES = {
    "embedding": "gpt_neox.embed_in",
    "norm": "gpt_neox.final_layer_norm",
    "output": "embed_out",
    "attention_norm": "input_layernorm",
    **dict.fromkeys(("attention.q", "attention.k", "attention.v"), "attention.query_key_value"),
    "attention.o": "attention.dense",
    "mlp_norm": "post_attention_layernorm",
    "mlp.up": "mlp.dense_h_to_4h",
    "mlp.down": "mlp.dense_4h_to_h",
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    norm = Norm("layer", config.take("layer_norm_eps", Norm, "epsilon"), weight=True, bias=True)
    rope = partial(read_rope, base="rotary_emb_base", share="rotary_pct")
    feed_forward = replace(decoder.mlp(config), gated=False, bias=True)
    spec = decoder.with_layers(decoder.read_decoder(config, norm, rope=rope), feed_forward=feed_forward)
    return decoder.with_layers(spec, parallel=config.flag("use_parallel_residual"))


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role: of query, key or value the rows of each head, or a tensor by its name in a checkpoint."""
    tensor, module = Tensor(checkpoint_name(role, MODULES, "gpt_neox.layers")), role.split(".")[-2]
    if module not in ("q", "k", "v"):
        return tensor
    place, width = "qkv".index(module), decoder.layer_of(role, spec).attention.head_dim
    return Interleaved(tensor, 3 * width, place * width, (place + 1) * width)


CONSTANTS = partial(decoder.tied_output, expression=expression)
GPT_NEOX = Family(("GPTNeoXForCausalLM", "GPTNeoXModel"), ("gpt_neox",), KEYS, parts, expression, CONSTANTS)
