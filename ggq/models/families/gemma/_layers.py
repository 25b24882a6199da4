"""What Gemma 3n and 4 share: inputs of layers, keys and values of earlier layers, experts beside a feed-forward."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from ggq.models import decoder
from ggq.models.config import Config
from ggq.models.families.gemma import gemma2
from ggq.models.family import checkpoint_name
from ggq.models.layers.layered import LayeredSpec, LayerInputs
from ggq.models.names import Expression, Extended, Matrix, Rows, Tensor, Times
from ggq.models.parts import PLAIN, Attention, Experts, MixedExperts, Mlp, ModelSpec, Norm, SharedAttention

MODULES = gemma2.MODULES | {
    "layer_inputs.embedding": "model.embed_tokens_per_layer",
    "layer_inputs.product": "model.per_layer_model_projection",
    "layer_inputs.norm": "model.per_layer_projection_norm",
    "layer_input.gate": "per_layer_input_gate",
    "layer_input.o": "per_layer_projection",
    "layer_input_post_norm": "post_per_layer_input_norm",
    "mixed_norm": "pre_feedforward_layernorm",
    "mixed_post_norm": "post_feedforward_layernorm",
    "mlp_result_norm": "post_feedforward_layernorm_1",
    "experts_norm": "pre_feedforward_layernorm_2",
    "experts_post_norm": "post_feedforward_layernorm_2",
    "experts.router": "router.proj",
}
"""Names of modules in a checkpoint."""

EXPERT = re.compile(r"\.experts\.(?P<number>[0-9]+)\.(?P<kind>gate|up|down)\.weight$")
TABLE = "layer_inputs.embedding.weight"


def layer_inputs(config: Config, spec: ModelSpec, norm: Norm) -> tuple[LayerInputs | None, int]:
    """What layers take besides the row, if anything, and the rows of its table."""
    if config.get("hidden_size_per_layer_input") in (0, None):
        return None, 0
    width = config.take("hidden_size_per_layer_input", LayerInputs, "width")
    rows = config.take("vocab_size_per_layer_input", LayeredSpec, "table_rows")
    scales = math.sqrt(width), spec.hidden_size**-0.5, 2**-0.5
    return LayerInputs(width, *scales, norm, spec.layers[0].mlp.activation, norm), rows


def source_of(config: Config, kinds: Sequence[str], number: int, first: int) -> int:
    """The layer whose keys and values a layer reads: the last before `first` of its kind."""
    found = max((each for each in range(first) if kinds[each] == kinds[number]), default=None)
    if found is None:
        raise config.error("num_kv_shared_layers", f"no layer before {first} is of kind {kinds[number]}")
    return found


def shared(mixer: Attention, source: int) -> SharedAttention:
    """Such attention to the keys and values of another layer."""
    plain = {each.name: getattr(mixer, each.name) for each in fields(Attention)}
    return SharedAttention(**{**plain, "key_norm": None, "key_bias": False, "value_bias": False}, source=source)


def with_experts(config: Config, mlp: Mlp, norm: Norm) -> Mlp | MixedExperts:
    """A layer's feed-forward, beside which there may be experts."""
    if not config.flag("enable_moe_block"):
        return mlp
    mixture = Experts(
        count=config.take("num_experts", Experts, "count"),
        chosen=config.take("top_k_experts", Experts, "chosen"),
        width=config.take("moe_intermediate_size", Experts, "width"),
        activation=mlp.activation,
        gated=True,
        bias=False,
        router=replace(PLAIN, factors=True),
        renormalised=True,
        scale=1.0,
        shared_width=0,
        shared_gate=False,
    )
    return MixedExperts(
        **vars(mixture), mlp=mlp, mlp_post_norm=norm, experts_norm=norm, experts_post_norm=norm, router_norm=norm
    )


def table(role: str, spec: LayeredSpec, prefix: str) -> Expression | None:
    """The table of the layers' inputs, which may have fewer rows than the vocabulary."""
    if role != TABLE:
        return None
    found = Tensor(f"{prefix}.embed_tokens_per_layer.weight")
    return found if spec.table_rows == spec.vocabulary_size else Extended(found, spec.table_rows, spec.vocabulary_size)


def matrix_of_experts(role: str, spec: ModelSpec, layers: str) -> Expression | None:
    """A tensor of experts or of their router, with a name of its own; None for other tensors."""
    place = f"{layers}.{role.split('.')[1]}" if role.startswith("layers.") else ""
    if role.endswith(".router_norm.weight"):
        return Times(Tensor(f"{place}.router.scale"), ((spec.hidden_size, spec.hidden_size**-0.5),))
    if role.endswith(".experts.factors"):
        return Tensor(f"{place}.router.per_expert_scale")
    if not (match := EXPERT.search(role)):
        return None
    mixture = decoder.layer_of(role, spec).feed_forward
    assert isinstance(mixture, Experts)
    kind, number = match["kind"], int(match["number"])
    if kind == "down":
        return Matrix(Tensor(f"{place}.experts.down_proj"), number)
    start = mixture.width * (kind == "up")
    return Rows(Matrix(Tensor(f"{place}.experts.gate_up_proj"), number), start, start + mixture.width)


def named(role: str, modules: Mapping[str, Any], layers: str, prefix: str) -> Expression:
    """A tensor by the name of its module."""
    if role.startswith("layers.") and role.endswith(".scale"):
        return Tensor(f"{layers}.{role.split('.')[1]}.layer_scalar")
    name = checkpoint_name(role, modules, layers)
    return Tensor(name if role.startswith("layers.") else name.replace("model.", f"{prefix}.", 1))
