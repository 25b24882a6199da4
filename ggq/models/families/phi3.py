"""Phi 3, Phi 4: Llama with query, key and value in one matrix, gate and up in one, and RoPE that may turn a part, each
pair slowed by a factor of its own, which is another one in long texts."""

from __future__ import annotations

from functools import partial

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, OrNull
from ggq.models.config_rope import LONG, read_rope, rope_source
from ggq.models.family import Family, checkpoint_name
from ggq.models.names import Expression, Rows, Tensor
from ggq.models.parts import ModelSpec

KEYS: Keys = {
    **decoder.base_without("head_dim"),
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "sliding_window": OrNull(),
    "partial_rotary_factor": 1.0,
    "original_max_position_embeddings": OrNull(4096),
    **dict.fromkeys(("resid_pdrop", "embd_pdrop"), ANY),  # of training
}

MODULES = decoder.MODULES | {"attention.qkv": "self_attn.qkv_proj", "mlp.gate_up": "mlp.gate_up_proj"}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    source = rope_source(config)
    spec = decoder.read_decoder(config, rope=partial(read_rope, inner=source, forms=("default", *LONG)))
    return decoder.with_mixers(spec, window=decoder.read_window(config) or 0)


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role: rows of a fused matrix, or a tensor by its name in a checkpoint."""
    mixer, inner = spec.layers[0].attention, spec.layers[0].mlp.width  # of every layer
    queries, keys = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    fused = {
        "attention.q": ("attention.qkv", 0, queries),
        "attention.k": ("attention.qkv", queries, queries + keys),
        "attention.v": ("attention.qkv", queries + keys, queries + 2 * keys),
        "mlp.gate": ("mlp.gate_up", 0, inner),
        "mlp.up": ("mlp.gate_up", inner, 2 * inner),
    }
    for module, (whole, start, stop) in fused.items():
        if role.endswith(f".{module}.weight"):
            return Rows(Tensor(checkpoint_name(role.replace(module, whole), MODULES)), start, stop)
    return Tensor(checkpoint_name(role, MODULES))


PHI3 = Family(("Phi3ForCausalLM", "Phi3Model"), ("phi3",), KEYS, parts, expression, decoder.constants)
