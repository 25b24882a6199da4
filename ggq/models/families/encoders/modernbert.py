"""ModernBERT: unlike Llama, tokens see their whole text or a window to both sides, each kind with its RoPE; layer
norms, one of the embedding for the first layer's; fused matrices; a text gets a vector or scores."""

from __future__ import annotations

from dataclasses import replace

from ggq.models import decoder
from ggq.models.config import Config
from ggq.models.config_rope import read_rope, rope_sources
from ggq.models.family import Family, checkpoint_name
from ggq.models.names import Expression, Rows, Tensor
from ggq.models.parts import Norm
from ggq.models.text.modern import KEYS, MODULES, modern_head, modern_layer, modern_text
from ggq.models.text.parts import TextSpec


def parts(config: Config) -> TextSpec:
    """The model of a config.json."""
    norm = Norm("layer", config.take("norm_eps", Norm, "epsilon"), weight=True, bias=config.flag("norm_bias"))
    layer = modern_layer(config, norm)
    sources = rope_sources(config, ("full_attention", "sliding_attention"))
    bases = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
    context, width = config.integer("max_position_embeddings", (1, 1 << 27)), layer.attention.head_dim
    full, local = (read_rope(config, width, context, inner=inner, base=bases[kind]) for kind, inner in sources.items())
    every = config.integer("global_attn_every_n_layers", (1, 1 << 20))
    half = config.integer("local_attention", (2, 1 << 27)) // 2 + 1  # its own position and so many to each side
    windows = decoder.layer_windows(config, half, slides=lambda number: number % every > 0)
    mixers = [replace(layer.attention, window=window, rope=local if window else full) for window in windows]
    layers = [replace(layer, mixer=mixer) for mixer in mixers]
    layers[0] = replace(layers[0], mixer_norm=None)
    return modern_text(config, norm, tuple(layers), modern_head(config, norm))


def expression(role: str, spec: TextSpec) -> Expression:
    """The tensor of a role: rows of a fused matrix, or a tensor by its name in a checkpoint."""
    width, inner, name = spec.hidden_size, spec.layers[0].mlp.width, role.split(".")[-2]
    tensor = Tensor(checkpoint_name(role, MODULES, "model.layers"))
    if role.startswith("layers.") and name in ("q", "k", "v"):
        return Rows(tensor, "qkv".index(name) * width, ("qkv".index(name) + 1) * width)
    if role.startswith("layers.") and name in ("gate", "up"):
        return Rows(tensor, inner * (name == "up"), inner * (1 + (name == "up")))
    return tensor


NAMES = ("ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification")
MODERNBERT = Family(NAMES, ("modernbert",), KEYS, parts, expression)
