"""BitNet b1.58: Llama with a norm before the last matrix of attention and of the feed-forward, which squares ReLU; its
matrices are ternary codes with a scale each, or floats."""

from __future__ import annotations

from dataclasses import replace

from ggq.models import decoder
from ggq.models.config import Config, Keys, OrNull
from ggq.models.family import Family, checkpoint_name
from ggq.models.names import Expression, Tensor
from ggq.models.parts import ModelSpec, NormedAttention, NormedMlp

KEYS: Keys = {
    **decoder.BASE,
    "num_key_value_heads": OrNull(5),
    "hidden_act": "relu2",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "attention_bias": False,
}

MODULES = decoder.MODULES | {
    "attention.o_norm": "self_attn.attn_sub_norm",
    "mlp.down_norm": "mlp.ffn_sub_norm",
}
"""Names of modules in a checkpoint."""


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    norm, spec = decoder.rms_norm(config), decoder.read_decoder(config)
    layer = spec.layers[0]
    mixer = NormedAttention(**vars(layer.attention), output_norm=norm)
    feed_forward = NormedMlp(**vars(layer.mlp), inner_norm=norm)
    return replace(spec, layers=(replace(layer, mixer=mixer, feed_forward=feed_forward),) * len(spec.layers))


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    return Tensor(checkpoint_name(role, MODULES))


BITNET = Family(("BitNetForCausalLM", "BitNetModel"), ("bitnet",), KEYS, parts, expression, decoder.constants)
