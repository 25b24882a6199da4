"""Llama itself: what Hugging Face calls its sizes and its tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ggq.models import limits
from ggq.models.architecture import TensorSpec
from ggq.models.config import ModelConfig, RopeConfig
from ggq.models.decoder import role_shapes
from ggq.models.fields import Fields, shown
from ggq.models.names import Tensor

MODULES = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "attention_norm": "input_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.o": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
"""Module names in a checkpoint by the middle of a role: "layers.3.mlp.up.bias" is "model.layers.3.mlp.up_proj.bias"."""

ACTIVATIONS = {"silu": "silu", "swish": "silu"}
"""Names that transformers has for an activation, and ours."""


class Llama:
    """LlamaForCausalLM: RMS norms before, grouped-query attention with RoPE, a gated SiLU feed-forward."""

    names: tuple[str, ...] = ("LlamaForCausalLM", "LlamaModel")
    model_types: tuple[str, ...] = ("llama",)

    def config(self, hf: Mapping[str, object], path: str | os.PathLike[str] | None = None) -> ModelConfig:
        """The normalised form of a config.json; what it leaves out has transformers' default, except for the sizes.

        Args:
            hf: The parsed config.json, of transformers 4 or 5.
            path: That file, for the messages.

        Raises:
            ModelError: A value is missing, of the wrong type, out of bounds or contradicts another.
            UnsupportedError: An activation or a form of RoPE that the engine does not have.
        """
        fields = Fields(hf, path)
        hidden = fields.integer("hidden_size", limits.INTEGERS["hidden_size"])
        heads = fields.integer("num_attention_heads", limits.INTEGERS["heads"])
        if "head_dim" not in fields and hidden % heads:
            raise fields.error("num_attention_heads", f"{heads} heads do not divide the hidden size {hidden}")
        context = fields.integer("max_position_embeddings", limits.INTEGERS["context_length"], 2048)
        bias = fields.flag("attention_bias", False)
        config = ModelConfig(
            vocabulary_size=fields.integer("vocab_size", limits.INTEGERS["vocabulary_size"]),
            hidden_size=hidden,
            intermediate_size=fields.integer("intermediate_size", limits.INTEGERS["intermediate_size"]),
            layers=fields.integer("num_hidden_layers", limits.INTEGERS["layers"]),
            heads=heads,
            kv_heads=fields.integer("num_key_value_heads", limits.INTEGERS["kv_heads"], heads),
            head_dim=fields.integer("head_dim", limits.INTEGERS["head_dim"], hidden // heads),
            context_length=context,
            norm="rms",
            norm_epsilon=fields.number("rms_norm_eps", limits.NUMBERS["norm_epsilon"], 1e-6),
            activation=activation(fields),
            gated=True,
            rope=rope_config(fields, context),
            tied_embedding=fields.flag("tie_word_embeddings", False),
            query_bias=bias,
            output_bias=bias,
            mlp_bias=fields.flag("mlp_bias", False),
        )
        return limits.check(config, path)

    def tensors(self, config: ModelConfig) -> list[TensorSpec]:
        """Every tensor of a checkpoint, and those that old ones carry for nothing."""
        specs = [TensorSpec(role, shape, Tensor(checkpoint_name(role))) for role, shape in role_shapes(config).items()]
        if config.tied_embedding:
            shape = (config.vocabulary_size, config.hidden_size)
            specs.append(TensorSpec("", shape, Tensor(f"{MODULES['output']}.weight"), required=False))
        for layer in range(config.layers):
            name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"  # a constant that transformers 4.30 saved
            specs.append(TensorSpec("", (config.head_dim // 2,), Tensor(name), required=False))
        return specs


def activation(fields: Fields) -> str:
    """The activation by the name that this project gives it."""
    return ACTIVATIONS[fields.choice("hidden_act", tuple(ACTIVATIONS), "silu")]


def rope_source(fields: Fields) -> Fields:
    """The object that says how heads are rotated: "rope_scaling" unless it is empty, else "rope_parameters" (S-1)."""
    for key in ("rope_scaling", "rope_parameters"):
        if fields.values.get(key) not in (None, False) and len(fields.inner(key).values):
            return fields.inner(key)
    return Fields({}, fields.path)


def rope_config(fields: Fields, context: int) -> RopeConfig:
    """RoPE as transformers 5 ("rope_parameters") or 4 ("rope_theta" beside "rope_scaling") writes it.

    Which of two places wins is told in docs/sources.md, S-1 to S-4.
    """
    inner = rope_source(fields)
    kind = inner.choice("rope_type" if "rope_type" in inner else "type", ("default", "llama3"), "default")
    for key, value in inner.values.items():
        if isinstance(value, list | dict):  # a RoPE per kind of layer, or sections of a multimodal one
            raise inner.unsupported(key, f"{shown(value)} found: this form of RoPE is not supported")
    for place in (inner, fields):
        if "partial_rotary_factor" in place and place.number("partial_rotary_factor", (0.0, 1.0)) != 1.0:
            raise place.unsupported("partial_rotary_factor", "rotating a part of each head is not supported")
    theta = (inner if "rope_theta" in inner else fields).number("rope_theta", limits.NUMBERS["theta"], 10000.0)
    if kind == "default":
        return RopeConfig(theta, "half", "none", 0.0, 0.0, 0.0, 0)
    original = "original_max_position_embeddings"
    return RopeConfig(
        theta=theta,
        layout="half",
        scaling="llama3",
        factor=inner.number("factor", limits.NUMBERS["factor"]),
        low_frequency_factor=inner.number("low_freq_factor", limits.NUMBERS["low_frequency_factor"]),
        high_frequency_factor=inner.number("high_freq_factor", limits.NUMBERS["high_frequency_factor"]),
        original_context_length=(fields if original in fields else inner).integer(
            original, limits.INTEGERS["original_context_length"], context
        ),
    )


def checkpoint_name(role: str) -> str:
    """Hugging Face's name of the tensor with this role."""
    if not role.startswith("layers."):
        module, kind = role.rsplit(".", 1)
        return f"{MODULES[module]}.{kind}"
    _, layer, rest = role.split(".", 2)
    module, kind = rest.rsplit(".", 1)
    return f"model.layers.{layer}.{MODULES[module]}.{kind}"
