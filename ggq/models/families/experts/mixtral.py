"""Mixtral: Llama with experts, of which a router chooses two for each token, and windows where asked for."""

from __future__ import annotations

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, OrNull
from ggq.models.family import Family, checkpoint_name
from ggq.models.names import Expression, Tensor
from ggq.models.parts import ModelSpec

KEYS: Keys = {
    **decoder.BASE,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "sliding_window": OrNull(),
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "router_jitter_noise": ANY,
    "router_aux_loss_coef": ANY,
    "output_router_logits": ANY,
}

MATRICES = {"gate": "w1", "down": "w2", "up": "w3"}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    spec = decoder.with_layers(decoder.read_decoder(config), feed_forward=decoder.experts(config))
    return decoder.with_mixers(spec, window=decoder.read_window(config) or 0)


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    if ".experts." not in role:
        modules = {**decoder.MODULES, "experts_norm": decoder.MODULES["mlp_norm"]}
        return Tensor(checkpoint_name(role, modules))
    _, layer, _, expert, *matrix, _ = role.split(".")
    name = f"experts.{expert}.{MATRICES[matrix[0]]}" if matrix else "gate"
    return Tensor(f"model.layers.{layer}.block_sparse_moe.{name}.weight")


MIXTRAL = Family(("MixtralForCausalLM",), ("mixtral",), KEYS, parts, expression, decoder.constants)
