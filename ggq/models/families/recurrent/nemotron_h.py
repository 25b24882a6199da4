"""Nemotron-H: Llama with scans of Mamba-2 instead of attention in most layers, no RoPE, squared ReLU without a gate;
a layer of a checkpoint is a mixer or a feed-forward alone, with experts or without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from ggq.models import decoder
from ggq.models.config import ANY, REQUIRED, Config, Keys, Only, OrNull
from ggq.models.families.recurrent import mamba2
from ggq.models.family import Family, checkpoint_name
from ggq.models.fields import shown
from ggq.models.names import Expression, Tensor
from ggq.models.parts import PLAIN, Attention, Embedding, Experts, Head, Layer, Mamba2, Mlp, ModelSpec

UNUSED = (
    *("num_hidden_layers", "num_logits_to_keep", "use_mamba_kernels", "expand", "chunk_size", "mamba_ssm_cache_dtype"),
    *("time_step_max", "time_step_floor", "time_step_limit", "moe_shared_expert_overlap", "output_router_logits"),
    *("num_nextn_predict_layers", "mtp_layers_block_type", "residual_in_fp32", "hidden_dropout", "mamba_proj_bias"),
    *("rescale_prenorm_residual", "attention_bias", "n_shared_experts"),
)
"""Of training, of other programs' kernels, and what transformers does not heed when it computes."""

KEYS: Keys = {
    **dict.fromkeys(UNUSED, ANY),
    "vocab_size": REQUIRED,
    "hidden_size": REQUIRED,
    "layers_block_type": OrNull(),
    "layer_types": OrNull(),
    "hybrid_override_pattern": OrNull(),
    "tie_word_embeddings": False,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "sliding_window": Only(None),
    "intermediate_size": 21504,
    "mlp_hidden_act": "relu2",
    "mlp_bias": False,
    "ssm_state_size": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "mamba_hidden_act": Only("silu"),
    "n_groups": 8,
    "conv_kernel": 4,
    "time_step_min": 0.001,
    "use_conv_bias": True,
    "use_bias": False,
    "layer_norm_epsilon": 1e-5,
    "n_routed_experts": 8,
    "moe_intermediate_size": 7688,
    "moe_shared_expert_intermediate_size": 7688,
    "moe_latent_size": Only(None),
    "num_experts_per_tok": 2,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
}

MODULES = {
    "embedding": "backbone.embeddings",
    "norm": "backbone.norm_f",
    "output": "lm_head",
    **dict.fromkeys(("mamba_norm", "attention_norm", "mlp_norm", "experts_norm"), "norm"),
    **{f"attention.{name}": f"mixer.{name}_proj" for name in "qkvo"},
    **{f"mlp.{name}": f"mixer.{name}_proj" for name in ("up", "down")},
    **{f"experts.shared.{name}": f"mixer.shared_experts.{name}_proj" for name in ("up", "down")},
    "experts.router": "mixer.gate",
    "mamba.inputs": "mixer.in_proj",
    "mamba.taps": "mixer.conv1d",
    "mamba.norm": "mixer.norm",
    "mamba.o": "mixer.out_proj",
}
"""Names of modules in a checkpoint."""

LETTERS = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}
WORDS = {**{word: word for word in LETTERS.values()}, "linear_attention": "mamba", "full_attention": "attention"}
"""Kinds of layers, as transformers 5 and older programs write them."""


def parts(config: Config) -> ModelSpec:
    """The model of a config.json: a mixer and a feed-forward behind it are one layer."""
    norm, width = decoder.rms_norm(config, "layer_norm_epsilon"), config.take("hidden_size", Embedding, "width")
    mixers: dict[str, Mamba2 | Attention] = {"mamba": scan(config), "attention": attention(config)}
    others: dict[str, Mlp | Experts] = {"mlp": mlp(config), "moe": mixture(config)}
    layers: list[Layer] = []
    for kind in kinds(config):
        if kind in others:
            if not layers or layers[-1].feed_forward is not None:
                raise config.unsupported("layers_block_type", "a feed-forward without a mixer before is not supported")
            layers[-1] = replace(layers[-1], feed_forward=others[kind], feed_forward_norm=norm)
        else:
            layers.append(Layer(mixers[kind], None, norm, None, None, None, parallel=False, residual_scale=1.0))
    return ModelSpec(
        context_length=config.take("max_position_embeddings", ModelSpec, "context_length"),
        embedding=Embedding(config.take("vocab_size", Embedding, "vocabulary_size"), width, scale=1.0),
        layers=tuple(layers),
        head=Head(norm, tied=config.flag("tie_word_embeddings"), bias=False, scale=1.0, softcap=0.0),
    )


def kinds(config: Config) -> Iterator[str]:
    """The kind of each layer of the checkpoint."""
    given = {key: config.get(key) for key in ("layers_block_type", "layer_types", "hybrid_override_pattern")}
    key, found = next(((key, value) for key, value in given.items() if value is not None), ("", None))
    if found is None:
        found = ["mamba", "moe", "attention", "mlp"]
    for word in found if isinstance(found, list | str) else [None]:
        kind = {**WORDS, **LETTERS}.get(word) if isinstance(word, str) else None
        if kind is None:
            raise config.unsupported(key, f"{shown(word)} is not supported; supported: {', '.join(WORDS)}")
        yield kind


def scan(config: Config) -> Mamba2:
    """The scan of the layers that have one."""
    bias = config.flag("use_bias")
    return Mamba2(
        heads=config.take("mamba_num_heads", Mamba2, "heads"),
        groups=config.take("n_groups", Mamba2, "groups"),
        head_dim=config.take("mamba_head_dim", Mamba2, "head_dim"),
        state_size=config.take("ssm_state_size", Mamba2, "state_size"),
        reach=config.take("conv_kernel", Mamba2, "reach"),
        least_step=config.take("time_step_min", Mamba2, "least_step"),
        most_step=0.0,
        taps_bias=config.flag("use_conv_bias"),
        bias=bias,
        output_bias=bias,
        norm=decoder.rms_norm(config, "layer_norm_epsilon"),
        norm_first=False,
    )


def attention(config: Config) -> Attention:
    """Attention without RoPE."""
    heads, kv_heads = (config.integer(f"num_{name}_heads", (1, 1 << 14)) for name in ("attention", "key_value"))
    return decoder.plain_attention(heads, kv_heads, config.take("head_dim", Attention, "head_dim"), None, bias=False)


def mlp(config: Config) -> Mlp:
    """A feed-forward without a gate."""
    activation = decoder.ACTIVATIONS[config.choice("mlp_hidden_act", tuple(decoder.ACTIVATIONS))]
    return Mlp(config.take("intermediate_size", Mlp, "width"), activation, gated=False, bias=config.flag("mlp_bias"))


def mixture(config: Config) -> Experts:
    """Experts without gates beside a shared one."""
    groups, chosen = (config.integer(key, (1, 63)) for key in ("n_group", "topk_group"))
    router = replace(PLAIN, score="sigmoid", correction=True, groups=groups, chosen_groups=chosen, least=1e-20)
    return Experts(
        count=config.take("n_routed_experts", Experts, "count"),
        chosen=config.take("num_experts_per_tok", Experts, "chosen"),
        width=config.take("moe_intermediate_size", Experts, "width"),
        activation=mlp(config).activation,
        gated=False,
        bias=False,
        router=replace(router, best=2 if groups > 1 else 1),
        renormalised=config.flag("norm_topk_prob"),
        scale=config.take("routed_scaling_factor", Experts, "scale"),
        shared_width=config.take("moe_shared_expert_intermediate_size", Experts, "shared_width"),
        shared_gate=False,
    )


def expression(role: str, spec: ModelSpec) -> Expression:
    """The tensor of a role, of the layer of a checkpoint that its part is."""
    if not role.startswith("layers."):
        return Tensor(checkpoint_name(role, MODULES))
    _, number, rest = role.split(".", 2)
    before = sum(1 + (layer.feed_forward is not None) for layer in spec.layers[: int(number)])
    place = before + rest.startswith(("mlp", "experts"))
    if rest.startswith("experts.") and rest.split(".")[1].isdecimal():
        _, expert, matrix, kind = rest.split(".")
        return Tensor(f"backbone.layers.{place}.mixer.experts.{expert}.{matrix}_proj.{kind}")
    if rest == "experts.score_correction":
        return Tensor(f"backbone.layers.{place}.mixer.gate.e_score_correction_bias")
    if not rest.startswith("mamba."):
        return Tensor(checkpoint_name(f"layers.{place}.{rest}", MODULES, "backbone.layers"))
    spread = replace(spec, layers=(*(decoder.layer_of(role, spec),) * (place + 1),))
    return mamba2.expression(f"layers.{place}.{rest}", spread, MODULES, "backbone.layers", "mixer")


NAMES = ("NemotronHForCausalLM", "NemotronHModel")
OUTPUT = partial(decoder.tied_output, expression=expression)
NEMOTRON_H = Family(NAMES, ("nemotron_h",), KEYS, parts, expression, OUTPUT, beside=("mtp.",))
