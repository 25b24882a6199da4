"""Gemma 3n (text): Llama as Gemma 4 changes it, but with norms of one size of heads, four parallel rows of which layers
compute one (AltUp), learned residuals (LAuReL), gates that are made sparse in some layers, and soft caps of logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import NormalDist
from typing import Any

from ggq.models import decoder
from ggq.models.config import ANY, Config, Keys, OrNull
from ggq.models.config_rope import read_rope, rope_sources
from ggq.models.families.gemma import _layers
from ggq.models.families.gemma._layers import layer_inputs, named, shared, source_of, table
from ggq.models.family import Family, TensorSpec
from ggq.models.fields import shown
from ggq.models.layers.layered import StreamedSpec
from ggq.models.names import Expression, Tensor
from ggq.models.parts import Attention, KeyedAttention, Layer, Mlp, SparseMlp

KEYS: Keys = {
    **decoder.base_without("hidden_act"),
    "num_key_value_heads": 2,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "attention_bias": False,
    "sliding_window": 512,
    "layer_types": OrNull(),
    "final_logit_softcapping": 30.0,
    "vocab_size_per_layer_input": 262144,
    "hidden_size_per_layer_input": 256,
    "num_kv_shared_layers": 15,
    "altup_active_idx": 0,
    "altup_coef_clip": ANY,  # of training
    "altup_correct_scale": True,
    "altup_num_inputs": 4,
    "laurel_rank": 64,
    "activation_sparsity_pattern": OrNull(),
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
}

MODULES = _layers.MODULES | {
    "altup.router": "altup.modality_router",
    "altup.router_norm": "altup.router_norm",
    "altup.prediction": "altup.prediction_coefs",
    "altup.correction": "altup.correction_coefs",
    "laurel.left": "laurel.linear_left",
    "laurel.right": "laurel.linear_right",
    "laurel_norm": "laurel.post_laurel_norm",
}
"""Names of modules in a checkpoint."""

FULL, SLIDING = "full_attention", "sliding_attention"
LEAST = 1e-5
"""Least mean square that a product of a row is divided by."""


def parts(config: Config) -> StreamedSpec:
    """The model of a config.json."""
    kinds = decoder.layer_kinds(config, (FULL, SLIDING), lambda number: SLIDING if (number + 1) % 5 else FULL)
    widths = listed(config, "intermediate_size", len(kinds), config.get("intermediate_size"))
    word = config.choice("hidden_activation", tuple(decoder.ACTIVATIONS))
    plain_mlp = Mlp(1, decoder.ACTIVATIONS[word], gated=True, bias=False)
    norm = decoder.rms_norm(config)
    spec = decoder.read_decoder(config, rope=lambda *_: None, feed_forward=plain_mlp)
    sources = rope_sources(config, (FULL, SLIDING))
    full, sliding = (partial(read_rope, config, spec.layers[0].attention.head_dim, spec.context_length),) * 2
    ropes = {FULL: full(inner=sources[FULL]), SLIDING: sliding(inner=sources[SLIDING], base="rope_local_base_freq")}
    first = len(kinds) - config.integer("num_kv_shared_layers", (0, len(kinds) - 1))
    layers: list[Layer] = []
    for number, (kind, feed_forward) in enumerate(zip(kinds, feed_forwards(config, spec.layers[0].mlp, widths))):
        window = 0 if kind == FULL else config.integer("sliding_window", (1, 1 << 27))
        plain = replace(spec.layers[0].attention, rope=ropes[kind], scale=1.0, window=window)
        plain = replace(plain, query_norm=norm, key_norm=norm)
        mine: Attention = KeyedAttention(**vars(plain), value_norm=replace(norm, weight=False), values="own")
        if number >= first:
            mine = shared(plain, source_of(config, kinds, number, first))
        layer = replace(spec.layers[0], mixer=mine, feed_forward=feed_forward)
        layers.append(replace(layer, mixer_post_norm=norm, feed_forward_post_norm=norm))
    inputs, rows = layer_inputs(config, spec, norm)
    return StreamedSpec(
        context_length=spec.context_length,
        embedding=replace(spec.embedding, scale=math.sqrt(spec.hidden_size)),
        layers=tuple(layers),
        head=replace(spec.head, softcap=decoder.read_softcap(config, "final_logit_softcapping")),
        inputs=inputs,
        table_rows=rows,
        layer_scales=False,
        streams=config.take("altup_num_inputs", StreamedSpec, "streams"),
        active=config.take("altup_active_idx", StreamedSpec, "active"),
        router_scale=1 / spec.hidden_size,
        least=LEAST,
        output_scale=config.flag("altup_correct_scale"),
        laurel_rank=config.take("laurel_rank", StreamedSpec, "laurel_rank"),
        laurel_scale=2**-0.5,
        stream_norm=norm,
    )


def listed(config: Config, key: str, count: int, given: Any) -> Sequence[Any]:
    """One value for each layer, of a list or of one value for all."""
    if not isinstance(given, list):
        return [given] * count
    if len(given) != count:
        raise config.error(key, f"{shown(given)} found, one value for each of {count} layers expected")
    return given


def feed_forwards(config: Config, mlp: Mlp, widths: Sequence[int]) -> list[Mlp]:
    """The feed-forward of each layer: of so many numbers, and of gates so sparse."""
    key, given = "activation_sparsity_pattern", config.get("activation_sparsity_pattern")
    sparse = 10 if len(widths) > 10 else 0
    usual = [0.95] * sparse + [0.0] * (len(widths) - sparse)
    shares, found = listed(config, key, len(widths), usual if given is None else given), []
    for width, share in zip(widths, shares):
        if type(width) is not int:
            raise config.error("intermediate_size", f"{shown(width)} found, an integer expected")
        if type(share) not in (int, float) or not 0 <= share < 1:
            raise config.error(key, f"{shown(share)} found, a number from 0 to below 1 expected")
        mine = replace(mlp, width=width)
        found.append(SparseMlp(**vars(mine), deviations=NormalDist().inv_cdf(share)) if share > 0 else mine)
    return found


def expression(role: str, spec: StreamedSpec, layers: str = "model.layers", prefix: str = "model") -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    if role.startswith("altup."):
        _, module, number, _ = role.split(".")
        name = {"projections": "altup_projections", "unembed": "altup_unembed_projections"}[module]
        return Tensor(f"{prefix}.{name}.{number}.weight")
    if role.endswith(".altup.output_scale"):
        return Tensor(f"{layers}.{role.split('.')[1]}.altup.correct_output_scale")
    return table(role, spec, prefix) or named(role, MODULES, layers, prefix)


def constants(spec: StreamedSpec, plain: Callable[[str, StreamedSpec], Expression] = expression) -> list[TensorSpec]:
    """An output matrix that is tied, and scales that are not in use."""
    roles = () if spec.output_scale else (f"layers.{n}.altup.output_scale" for n in range(len(spec.layers)))
    unused = [TensorSpec("", (spec.hidden_size,), plain(role, spec), required=False) for role in roles]
    return decoder.tied_output(spec, plain) + unused


GEMMA3N = Family(("Gemma3nForCausalLM", "Gemma3nTextModel"), ("gemma3n_text",), KEYS, parts, expression, constants)
