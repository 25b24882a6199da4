"""Mamba-2: Llama with scans instead of attention and without feed-forwards."""

from __future__ import annotations

import math

from ggq.models import decoder
from ggq.models.config import ANY, REQUIRED, Config, Inner, Keys
from ggq.models.family import Family, checkpoint_name
from ggq.models.fields import Fields, shown
from ggq.models.names import Expression, Rows, Taps, Tensor
from ggq.models.parts import MOST_LAYERS, Embedding, Head, Layer, Mamba2, ModelSpec

KEYS: Keys = {
    **dict.fromkeys(("vocab_size", "hidden_size", "num_hidden_layers", "num_heads", "head_dim"), REQUIRED),
    "state_size": 128,
    "n_groups": 8,
    "expand": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "hidden_act": "silu",
    "layer_norm_epsilon": 1e-5,
    "time_step_limit": [0.0, math.inf],
    "tie_word_embeddings": False,
    # of training and of other programs' kernels
    **dict.fromkeys(("residual_in_fp32", "rescale_prenorm_residual", "chunk_size", "time_step_rank"), ANY),
    **dict.fromkeys(("time_step_min", "time_step_max", "time_step_floor"), ANY),
}

MODULES = {
    "embedding": "backbone.embeddings",
    "norm": "backbone.norm_f",
    "output": "lm_head",
    "mamba_norm": "norm",
    "mamba.inputs": "mixer.in_proj",
    "mamba.taps": "mixer.conv1d",
    "mamba.norm": "mixer.norm",
    "mamba.o": "mixer.out_proj",
}
"""Names of modules in a checkpoint."""

SCALARS = {"speed": "A_log", "shift": "dt_bias", "skip": "D"}

CONTEXT = 1 << 20
"""Tokens: a state has no limit of its own."""


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    norm = decoder.rms_norm(config, "layer_norm_epsilon")
    width, heads = config.take("hidden_size", Embedding, "width"), config.take("num_heads", Mamba2, "heads")
    least, most = limits(config)
    head_dim, expand = config.take("head_dim", Mamba2, "head_dim"), config.number("expand", (0.0, 64.0))
    if heads * head_dim != expand * width:
        raise config.error("num_heads", f"{heads} heads of {head_dim} are not {expand:g} times the width {width}")
    mixer = Mamba2(
        heads=heads,
        groups=config.take("n_groups", Mamba2, "groups"),
        head_dim=head_dim,
        state_size=config.take("state_size", Mamba2, "state_size"),
        reach=config.take("conv_kernel", Mamba2, "reach"),
        least_step=least,
        most_step=most,
        taps_bias=config.flag("use_conv_bias"),
        bias=config.flag("use_bias"),
        output_bias=config.flag("use_bias"),
        norm=norm,
        norm_first=False,
    )
    config.choice("hidden_act", ("silu", "swish"))
    layer = Layer(mixer, None, norm, None, None, None, parallel=False, residual_scale=1.0)
    return ModelSpec(
        context_length=CONTEXT,
        embedding=Embedding(config.take("vocab_size", Embedding, "vocabulary_size"), width, scale=1.0),
        layers=(layer,) * config.integer("num_hidden_layers", (1, MOST_LAYERS)),
        head=Head(norm, tied=config.flag("tie_word_embeddings"), bias=False, scale=1.0, softcap=0.0),
    )


def limits(config: Config) -> tuple[float, float]:
    """The least and the greatest step; 0 for no greatest."""
    given: object = config.get("time_step_limit")
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise config.error("time_step_limit", f"{shown(given)} found, two numbers expected")
    pair = Inner(Fields({"least": given[0], "most": given[1]}, config.path, "time_step_limit."))
    least = pair.number("least", (0.0, 1e30), zero=True)
    return least, 0.0 if given[1] == math.inf else pair.number("most", (0.0, 1e30))


def expression(
    role: str, spec: ModelSpec, modules: dict[str, str] = MODULES, layers: str = "backbone.layers", scan: str = "mixer"
) -> Expression:
    """The tensor of a role: rows of the matrix of all inputs of a scan, or a tensor of a checkpoint."""
    if ".mamba." not in role:
        return Tensor(checkpoint_name(role, modules, layers))
    _, number, _, name = role.split(".", 3)
    if name in SCALARS:
        return Tensor(f"{layers}.{number}.{scan}.{SCALARS[name]}")
    mixer, (name, kind) = decoder.layer_of(role, spec).scan, name.split(".")
    inner, shared = mixer.heads * mixer.head_dim, mixer.groups * mixer.state_size
    ends = {"gate": (0, inner), "mixed": (inner, 2 * (inner + shared))}
    ends["step"] = 2 * (inner + shared), 2 * (inner + shared) + mixer.heads
    if name in ends:
        return Rows(Tensor(checkpoint_name(f"layers.{number}.mamba.inputs.{kind}", modules, layers)), *ends[name])
    tensor = Tensor(checkpoint_name(role, modules, layers))
    return Taps(tensor, mixer.reach) if (name, kind) == ("taps", "weight") else tensor


MAMBA2 = Family(
    ("Mamba2ForCausalLM", "Mamba2Model"),
    ("mamba2",),
    KEYS,
    parts,
    expression,
    lambda spec: decoder.tied_output(spec, expression),
)
