"""Gemma 3n that sees and hears, of which the text model alone is taken: it differs from Llama as Gemma 3n does."""

from __future__ import annotations

from functools import partial

from ggq.models.families.gemma import gemma3n
from ggq.models.family import Family

expression = partial(gemma3n.expression, layers="model.language_model.layers", prefix="model.language_model")

GEMMA3N_IMAGES = Family(
    ("Gemma3nForConditionalGeneration", "Gemma3nModel"),
    ("gemma3n",),
    gemma3n.KEYS,
    gemma3n.parts,
    expression,
    partial(gemma3n.constants, plain=expression),
    text="text_config",
    beside=("model.vision_tower.", "model.audio_tower.", "model.embed_vision.", "model.embed_audio."),
)
