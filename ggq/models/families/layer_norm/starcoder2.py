"""StarCoder2: Llama with layer norms and all matrices with biases, a feed-forward without a gate, and a window where
asked for."""

from __future__ import annotations

from dataclasses import replace

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, OrNull
from ggq.models.family import Family, checkpoint_name
from ggq.models.names import Expression, Tensor
from ggq.models.parts import ModelSpec, Norm

KEYS: Keys = {
    **decoder.base_without("rms_norm_eps"),
    "num_key_value_heads": OrNull(2),
    "max_position_embeddings": 4096,
    "hidden_act": "gelu_pytorch_tanh",
    "norm_epsilon": 1e-5,
    "use_bias": True,
    "sliding_window": OrNull(),
    "tie_word_embeddings": True,
    **dict.fromkeys(("residual_dropout", "embedding_dropout"), ANY),  # of training
}

MODULES = decoder.MODULES | {"mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    norm, bias = Norm("layer", config.take("norm_epsilon", Norm, "epsilon"), True, True), config.flag("use_bias")
    biases = dict.fromkeys(("query_bias", "key_bias", "value_bias", "output_bias"), bias)
    window = decoder.read_window(config) or 0
    spec = decoder.with_mixers(decoder.read_decoder(config, norm), window=window, **biases)
    return decoder.with_layers(spec, feed_forward=replace(decoder.mlp(config), gated=False, bias=bias))


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    return Tensor(checkpoint_name(role, MODULES))


NAMES = ("Starcoder2ForCausalLM", "Starcoder2Model")
STARCODER2 = Family(NAMES, ("starcoder2",), KEYS, parts, expression, decoder.constants)
