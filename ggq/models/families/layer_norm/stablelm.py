"""StableLM: Llama with layer norms with biases, RoPE that turns a quarter of each head, biases of query, key and value
where asked for, and attention and feed-forward side by side where asked for."""

from __future__ import annotations

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, Only, OrNull
from ggq.models.family import Family
from ggq.models.parts import ModelSpec, Norm

KEYS: Keys = {
    **decoder.base_without("head_dim", "rms_norm_eps"),
    "num_key_value_heads": OrNull(32),
    "max_position_embeddings": 4096,
    "layer_norm_eps": 1e-5,
    "use_qkv_bias": False,
    "use_parallel_residual": False,
    "partial_rotary_factor": 0.25,
    "qk_layernorm": Only(False),  # a norm of each head with weights of its own
    "hidden_dropout": ANY,
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    norm = Norm("layer", config.take("layer_norm_eps", Norm, "epsilon"), weight=True, bias=True)
    spec, bias = decoder.read_decoder(config, norm), config.flag("use_qkv_bias")
    spec = decoder.with_mixers(spec, query_bias=bias, key_bias=bias, value_bias=bias)
    if config.flag("use_parallel_residual"):
        return decoder.with_layers(spec, feed_forward_norm=None, parallel=True)
    return spec


STABLELM = Family(
    ("StableLmForCausalLM", "StableLmModel"), ("stablelm",), KEYS, parts, decoder.expression, decoder.constants
)
