"""Qwen3.5-MoE that sees images, of which the text model alone is taken: it differs from Llama as Qwen3.5-MoE does."""

from __future__ import annotations

from functools import partial

from ggq.models import decoder
from ggq.models.families.recurrent import qwen3_5_images, qwen3_5_moe
from ggq.models.family import Family

expression = partial(qwen3_5_moe.expression, modules=qwen3_5_images.MODULES, layers=qwen3_5_images.LAYERS)

QWEN3_5_MOE_IMAGES = Family(
    ("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeModel"),
    ("qwen3_5_moe",),
    qwen3_5_moe.KEYS,
    qwen3_5_moe.parts,
    expression,
    lambda spec: decoder.tied_output(spec, expression),
    text="text_config",
    beside=("model.visual.", "mtp."),
    others=(decoder.stacked(expression),),
)
