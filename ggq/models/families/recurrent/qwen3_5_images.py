"""Qwen3.5 that sees images, of which the text model alone is taken: it differs from Llama as Qwen3.5 does."""

from __future__ import annotations

from functools import partial

from ggq.models import decoder
from ggq.models.families.recurrent import qwen3_5
from ggq.models.family import Family

LAYERS = "model.language_model.layers"

MODULES = qwen3_5.MODULES | {"embedding": "model.language_model.embed_tokens", "norm": "model.language_model.norm"}
"""Names of modules in a checkpoint."""

expression = partial(qwen3_5.expression, modules=MODULES, layers=LAYERS)

QWEN3_5_IMAGES = Family(
    ("Qwen3_5ForConditionalGeneration", "Qwen3_5Model"),
    ("qwen3_5",),
    qwen3_5.KEYS,
    qwen3_5.parts,
    expression,
    lambda spec: decoder.tied_output(spec, expression),
    text="text_config",
    beside=("model.visual.", "mtp."),
)
