"""Gemma 4 that sees and hears, of which the text model alone is taken: it differs from Llama as Gemma 4 does."""

from __future__ import annotations

from functools import partial

from ggq.models import decoder
from ggq.models.families.gemma import gemma4
from ggq.models.family import Family

expression = partial(gemma4.expression, layers="model.language_model.layers", prefix="model.language_model")

GEMMA4_IMAGES = Family(
    ("Gemma4ForConditionalGeneration", "Gemma4Model"),
    ("gemma4",),
    gemma4.KEYS,
    gemma4.parts,
    expression,
    lambda spec: decoder.tied_output(spec, expression),
    text="text_config",
    beside=("model.vision_tower.", "model.audio_tower.", "model.embed_vision.", "model.embed_audio."),
)
