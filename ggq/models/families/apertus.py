"""Apertus: Llama with a norm of each head of query and key, and a feed-forward without gate whose activation, xIELU, is
learned in each layer."""

from __future__ import annotations

from ggq.models import decoder
from ggq.models.config import Config, Inner, Keys
from ggq.models.config_rope import read_rope, rope_source
from ggq.models.family import Family, TensorSpec, checkpoint_name
from ggq.models.fields import Fields
from ggq.models.names import Expression, Scalar, Tensor
from ggq.models.parts import XIELU, Mlp, ModelSpec

KEYS: Keys = {
    **decoder.base_without("head_dim"),
    "hidden_act": XIELU,
    "max_position_embeddings": 65536,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "rope_theta": 12000000.0,
}

USUAL = {"rope_type": "llama3", "rope_theta": 12000000.0, "factor": 8.0, "original_max_position_embeddings": 8192}
USUAL |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
"""What transformers takes where nothing is said."""

MODULES = decoder.MODULES | {
    "attention_norm": "attention_layernorm",
    "mlp_norm": "feedforward_layernorm",
    **{f"mlp.activation.{name}": f"mlp.act_fn.{name}" for name in ("alpha_p", "alpha_n", "beta", "eps")},
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    source = rope_source(config)
    source = source if source.values else Inner(Fields(USUAL, config.path, "rope_parameters."))
    word = config.choice("hidden_act", (XIELU, *decoder.ACTIVATIONS))
    width = config.take("intermediate_size", Mlp, "width")
    plain = Mlp(width, decoder.ACTIVATIONS.get(word, word), gated=False, bias=False)
    norm = decoder.rms_norm(config)

    def rope(config: Config, head_dim: int, context: int, layout: str) -> object:
        return read_rope(config, head_dim, context, layout, inner=source)

    spec = decoder.read_decoder(config, rope=rope, feed_forward=plain)  # type: ignore[arg-type]
    return decoder.with_mixers(spec, query_norm=norm, key_norm=norm)


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    if ".activation." in role:
        return Scalar(checkpoint_name(f"{role}.", MODULES).removesuffix("."))
    return Tensor(checkpoint_name(role, MODULES))


def constants(spec: ModelSpec) -> list[TensorSpec]:
    """See `decoder.constants`; and the number that xIELU's exponent is held at, which no result shows."""
    layers = (n for n, layer in enumerate(spec.layers) if layer.mlp.activation == XIELU)
    held = (Scalar(f"model.layers.{number}.mlp.act_fn.eps") for number in layers)
    return [*decoder.constants(spec), *(TensorSpec("", (1,), name, required=False) for name in held)]


APERTUS = Family(("ApertusForCausalLM", "ApertusModel"), ("apertus",), KEYS, parts, expression, constants)
