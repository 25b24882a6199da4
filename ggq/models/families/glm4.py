"""GLM-4: Llama with norms behind attention and feed-forward too, biases of q, k and v, gate and up as one matrix, and
RoPE that turns neighbours in the first half of a head."""

from __future__ import annotations

from ggq.models import decoder
from ggq.models.config import Config, Keys, OrNull
from ggq.models.family import Family, checkpoint_name
from ggq.models.names import Expression, Rows, Tensor
from ggq.models.parts import ModelSpec

KEYS: Keys = {
    **decoder.BASE,
    "num_key_value_heads": OrNull(2),
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 0.00000015625,
    "attention_bias": True,
    "partial_rotary_factor": 0.5,
}

MODULES = decoder.MODULES | {
    "attention_post_norm": "post_self_attn_layernorm",
    "mlp_post_norm": "post_mlp_layernorm",
    "mlp.gate": "mlp.gate_up_proj",
    "mlp.up": "mlp.gate_up_proj",
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    norm = decoder.rms_norm(config)
    spec = decoder.with_mixers(decoder.read_decoder(config, layout="pairs"), output_bias=False)
    return decoder.with_layers(spec, mixer_post_norm=norm, feed_forward_post_norm=norm)


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role, by its name in a checkpoint; gate and up are the halves of one."""
    tensor = Tensor(checkpoint_name(role, MODULES))
    if not role.endswith((".mlp.gate.weight", ".mlp.up.weight")):
        return tensor
    start, width = "up" in role, decoder.layer_of(role, spec).mlp.width
    return Rows(tensor, start * width, (start + 1) * width)


GLM4 = Family(("Glm4ForCausalLM", "Glm4Model"), ("glm4",), KEYS, parts, expression, decoder.constants)
