"""OLMo 2: Llama with norms behind attention and feed-forward instead of before, and norms of whole rows of q and k."""

from __future__ import annotations

from collections.abc import Callable

from ggq.models import decoder
from ggq.models.config import Config, Keys
from ggq.models.config_rope import read_rope
from ggq.models.family import Family, checkpoint_name
from ggq.models.names import Expression, Tensor
from ggq.models.parts import ModelSpec
from ggq.models.rope import Rope

KEYS: Keys = {**decoder.BASE, "rms_norm_eps": 1e-5, "attention_bias": False}

MODULES = decoder.MODULES | {
    "attention_post_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


def parts(config: Config, rope: Callable[..., Rope] = read_rope) -> ModelSpec:
    """The model of a config.json."""
    norm = decoder.rms_norm(config)
    spec = decoder.with_mixers(decoder.read_decoder(config, rope=rope), query_norm=norm, key_norm=norm, normed="row")
    spec = decoder.with_layers(spec, mixer_norm=None, feed_forward_norm=None)
    return decoder.with_layers(spec, mixer_post_norm=norm, feed_forward_post_norm=norm)


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    return Tensor(checkpoint_name(role, MODULES))


OLMO2 = Family(("Olmo2ForCausalLM", "Olmo2Model"), ("olmo2",), KEYS, parts, expression, decoder.constants)
