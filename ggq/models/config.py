"""ModelConfig: what an engine must know of a model, with no defaults and no architecture names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding.

    Args:
        theta: Base of the frequencies.
        layout: "half" (the two halves of a head rotate together, as Hugging Face stores Llama) or "pairs".
        scaling: "none" or "llama3"; the next four belong to llama3 and are 0 otherwise.
        factor: How far the context was stretched.
        low_frequency_factor: See Llama 3.1.
        high_frequency_factor: See Llama 3.1.
        original_context_length: Context in tokens before stretching.
    """

    theta: float
    layout: str
    scaling: str
    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context_length: int


@dataclass(frozen=True)
class ModelConfig:
    """A decoder's sizes and choices, normalised; stored in a file as the metadata keys of spec/metadata.md.

    Biases and an untied output are told by their tensors too, and repeated here so that a missing one is seen.
    """

    vocabulary_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context_length: int
    norm: str
    norm_epsilon: float
    activation: str
    gated: bool
    rope: RopeConfig
    tied_embedding: bool
    query_bias: bool
    output_bias: bool
    mlp_bias: bool
