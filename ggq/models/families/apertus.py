"""Apertus: Llama with norms of heads of queries and keys, and a feed-forward without gates whose xIELU is learned."""

from __future__ import annotations

from functools import partial

from ggq.models import decoder
from ggq.models.config import Config, Keys
from ggq.models.config_rope import read_rope, rope_source
from ggq.models.family import Family, TensorSpec, checkpoint_name
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
    word = config.choice("hidden_act", (XIELU, *decoder.ACTIVATIONS))
    width, activation = config.take("intermediate_size", Mlp, "width"), decoder.ACTIVATIONS.get(word, word)
    plain = Mlp(width, activation, gated=False, bias=False)
    norm = decoder.rms_norm(config)
    spec = decoder.read_decoder(config, rope=partial(read_rope, inner=rope_source(config, USUAL)), feed_forward=plain)
    return decoder.with_mixers(spec, query_norm=norm, key_norm=norm)


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    if ".activation." in role:
        name = checkpoint_name(f"{role}.", MODULES).removesuffix(".")
        return Scalar(name) if role.endswith(".beta") else Tensor(name)
    return Tensor(checkpoint_name(role, MODULES))


def constants(spec: ModelSpec) -> list[TensorSpec]:
    """See `decoder.constants`; and the number that xIELU's exponent is held at, which no result shows."""
    held = (Scalar(f"model.layers.{number}.mlp.act_fn.eps") for number in range(len(spec.layers)))
    return [*decoder.constants(spec), *(TensorSpec("", (1,), name, required=False) for name in held)]


APERTUS = Family(("ApertusForCausalLM", "ApertusModel"), ("apertus",), KEYS, parts, expression, constants)
