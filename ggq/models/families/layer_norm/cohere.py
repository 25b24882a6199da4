"""Cohere (Command R): Llama with layer norms without biases, one for attention and feed-forward side by side, RoPE that
turns neighbours, and scaled logits."""

from __future__ import annotations

from dataclasses import replace

from ggq.models import decoder
from ggq.models.config import Config, Keys, Only
from ggq.models.family import Family
from ggq.models.parts import Head, ModelSpec, Norm

KEYS: Keys = {
    **decoder.base_without("rms_norm_eps"),
    "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "rope_theta": 500000.0,
    "logit_scale": 0.0625,
    "use_qk_norm": Only(False),  # a norm of each head with weights of its own
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    norm = Norm("layer", config.take("layer_norm_eps", Norm, "epsilon"), weight=True, bias=False)
    spec = decoder.with_layers(decoder.read_decoder(config, norm, "pairs"), feed_forward_norm=None, parallel=True)
    return replace(spec, head=replace(spec.head, scale=config.take("logit_scale", Head, "scale")))


COHERE = Family(("CohereForCausalLM", "CohereModel"), ("cohere",), KEYS, parts, decoder.expression, decoder.constants)
