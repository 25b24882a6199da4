"""Granite MoE with one more expert that all tokens go through: Llama with multipliers and stacks of experts."""

from __future__ import annotations

from ggq.models import decoder
from ggq.models.config import Keys
from ggq.models.families.experts import granite_moe
from ggq.models.family import Family

KEYS: Keys = {**granite_moe.KEYS, "shared_intermediate_size": 0}

GRANITE_MOE_SHARED = Family(
    ("GraniteMoeSharedForCausalLM",),
    ("granitemoeshared",),
    KEYS,
    granite_moe.parts,
    granite_moe.expression,
    decoder.constants,
)
