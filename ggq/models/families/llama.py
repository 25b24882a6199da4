"""Llama: RMS norms before, grouped-query attention with RoPE, a gated SiLU feed-forward."""

from __future__ import annotations

from ggq.models.config import ANY, Keys
from ggq.models.decoder import BASE, constants, expression, read_decoder
from ggq.models.family import Family
from ggq.models.text.scores import with_scores

KEYS: Keys = {
    **BASE,
    "attention_bias": False,
    "mlp_bias": False,
    "pretraining_tp": ANY,  # how training split matrices: the sums are the same
}

LLAMA = with_scores(
    Family(
        names=("LlamaForCausalLM", "LlamaModel"),
        model_types=("llama",),
        keys=KEYS,
        parts=read_decoder,
        expression=expression,
        constants=constants,
    )
)
