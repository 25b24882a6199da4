"""Which families there are."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from ggq.errors import ModelError, UnsupportedError
from ggq.models.expression import Expression
from ggq.models.families.apertus import APERTUS
from ggq.models.families.arcee import ARCEE
from ggq.models.families.bitnet import BITNET
from ggq.models.families.encoders.bert import BERT
from ggq.models.families.encoders.modernbert import MODERNBERT
from ggq.models.families.encoders.roberta import ROBERTA
from ggq.models.families.encoders.xlm_roberta import XLM_ROBERTA
from ggq.models.families.ernie4_5 import ERNIE4_5
from ggq.models.families.experts.deepseek_v2 import DEEPSEEK_V2
from ggq.models.families.experts.deepseek_v3 import DEEPSEEK_V3
from ggq.models.families.experts.glm4_moe_lite import GLM4_MOE_LITE
from ggq.models.families.experts.gpt_oss import GPT_OSS
from ggq.models.families.experts.granite_moe import GRANITE_MOE
from ggq.models.families.experts.granite_moe_shared import GRANITE_MOE_SHARED
from ggq.models.families.experts.mixtral import MIXTRAL
from ggq.models.families.experts.olmoe import OLMOE
from ggq.models.families.experts.qwen2_moe import QWEN2_MOE
from ggq.models.families.experts.qwen3_moe import QWEN3_MOE
from ggq.models.families.gemma.gemma2 import GEMMA2
from ggq.models.families.gemma.gemma3 import GEMMA3
from ggq.models.families.gemma.gemma3n import GEMMA3N
from ggq.models.families.gemma.gemma3n_images import GEMMA3N_IMAGES
from ggq.models.families.gemma.gemma4 import GEMMA4
from ggq.models.families.gemma.gemma4_images import GEMMA4_IMAGES
from ggq.models.families.glm4 import GLM4
from ggq.models.families.granite import GRANITE
from ggq.models.families.hunyuan import HUNYUAN
from ggq.models.families.layer_norm.cohere import COHERE
from ggq.models.families.layer_norm.cohere2 import COHERE2
from ggq.models.families.layer_norm.falcon import FALCON
from ggq.models.families.layer_norm.gpt2 import GPT2
from ggq.models.families.layer_norm.gpt_neox import GPT_NEOX
from ggq.models.families.layer_norm.stablelm import STABLELM
from ggq.models.families.layer_norm.starcoder2 import STARCODER2
from ggq.models.families.llama import LLAMA
from ggq.models.families.mistral import MISTRAL
from ggq.models.families.olmo2 import OLMO2
from ggq.models.families.phi3 import PHI3
from ggq.models.families.qwen2 import QWEN2
from ggq.models.families.qwen3 import QWEN3
from ggq.models.families.recurrent.falcon_h1 import FALCON_H1
from ggq.models.families.recurrent.granite_hybrid import GRANITE_HYBRID
from ggq.models.families.recurrent.lfm2 import LFM2
from ggq.models.families.recurrent.lfm2_moe import LFM2_MOE
from ggq.models.families.recurrent.mamba2 import MAMBA2
from ggq.models.families.recurrent.nemotron_h import NEMOTRON_H
from ggq.models.families.recurrent.qwen3_5 import QWEN3_5
from ggq.models.families.recurrent.qwen3_5_images import QWEN3_5_IMAGES
from ggq.models.families.recurrent.qwen3_5_moe import QWEN3_5_MOE
from ggq.models.families.recurrent.qwen3_5_moe_images import QWEN3_5_MOE_IMAGES
from ggq.models.families.recurrent.qwen3_next import QWEN3_NEXT
from ggq.models.families.smollm3 import SMOLLM3
from ggq.models.families.windowed.exaone4 import EXAONE4
from ggq.models.families.windowed.ministral3 import MINISTRAL3
from ggq.models.families.windowed.olmo3 import OLMO3
from ggq.models.family import TIED, Family
from ggq.models.fields import shown

FAMILIES: tuple[Family, ...] = (
    LLAMA,
    QWEN2,
    MISTRAL,
    QWEN3,
    GEMMA2,
    GEMMA3,
    GEMMA3N,
    GEMMA3N_IMAGES,
    GEMMA4,
    GEMMA4_IMAGES,
    OLMO2,
    GRANITE,
    COHERE,
    SMOLLM3,
    BERT,
    XLM_ROBERTA,
    ROBERTA,
    MODERNBERT,
    GLM4,
    APERTUS,
    ARCEE,
    BITNET,
    PHI3,
    STABLELM,
    STARCODER2,
    COHERE2,
    FALCON,
    GPT2,
    OLMO3,
    EXAONE4,
    MINISTRAL3,
    ERNIE4_5,
    HUNYUAN,
    GPT_NEOX,
    LFM2,
    LFM2_MOE,
    NEMOTRON_H,
    QWEN3_5,
    QWEN3_5_IMAGES,
    QWEN3_NEXT,
    QWEN3_5_MOE,
    QWEN3_5_MOE_IMAGES,
    MAMBA2,
    GRANITE_HYBRID,
    FALCON_H1,
    MIXTRAL,
    QWEN3_MOE,
    QWEN2_MOE,
    OLMOE,
    GRANITE_MOE,
    GRANITE_MOE_SHARED,
    GPT_OSS,
    DEEPSEEK_V2,
    DEEPSEEK_V3,
    GLM4_MOE_LITE,
)
"""Every supported family. To add one, write its file in `families` and list it here."""


def find_architecture(hf: Mapping[str, object], path: str | os.PathLike[str] | None = None) -> Family:
    """The family that a config.json names: by "architectures", and where that is missing by "model_type".

    Args:
        hf: The parsed config.json.
        path: That file, for the messages.

    Raises:
        ModelError: "architectures" is no list of strings, or names another family than "model_type" (S-5).
        UnsupportedError: No such family here.
    """
    listed = hf.get("architectures")
    listed = [listed] if isinstance(listed, str) else [] if listed is None else listed
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ModelError(f"{shown(listed)} found, a list of class names expected", path=path, where="architectures")
    model_type = hf.get("model_type")
    typed = next((family for family in FAMILIES if model_type in family.model_types), None)
    if not listed and typed is None:
        raise _unknown("model_type" if model_type is not None else "architectures", model_type, path)
    families = [_named(name, path) for name in dict.fromkeys(listed)]
    if typed is None and isinstance(model_type, str):
        problem = f"{shown(model_type)} found, and architectures {shown(listed[0])}: they name different models"
        raise ModelError(problem, path=path, where="model_type", fix="correct the one that is wrong")
    found = list(dict.fromkeys([*([] if typed is None else [typed]), *families]))
    if len(found) > 1:
        names = ", ".join([*([] if typed is None else [f"model_type {shown(model_type)}"]), *map(shown, listed)])
        raise ModelError(f"{names} name different models", path=path, where="architectures")
    return found[0].of(hf)


def _named(name: str, path: str | os.PathLike[str] | None) -> Family:
    """The family of a class."""
    for family in FAMILIES:
        if name in family.names:
            return family
    raise _unknown("architectures", name, path)


def _unknown(where: str, found: object, path: str | os.PathLike[str] | None) -> UnsupportedError:
    known = ", ".join(family.names[0].removesuffix("ForCausalLM").removesuffix("Model") for family in FAMILIES)
    what = "missing" if found is None else f"{shown(found)} is not supported"
    fix = "docs/families.md lists what is supported; `ggq convert --generic` stores tensors without a model"
    return UnsupportedError(f"{what}; supported: {known}", path=path, where=where, fix=fix)


def stored_expressions(
    config: Mapping[str, Any], roles: Collection[str], path: str | os.PathLike[str]
) -> dict[str, Expression]:
    """What each role's tensor is made of, by names of the checkpoint.

    Args:
        config: The checkpoint's config.json.
        roles: Those of the file's tensors.
        path: The config.json, for messages.

    Returns:
        An expression for each of the roles, in the order of a forward pass.

    Raises:
        ModelError: config.json is that of another model.
        UnsupportedError: An architecture that this version does not have.
    """
    if config.get(TIED) is not False and "output.weight" in roles:
        config = {**config, TIED: False}
    family = find_architecture(config, path)
    specs = family.tensors(family.config(config, path))
    expressions = {spec.role: spec.expression for spec in specs if spec.role in roles}
    strange = [role for role in roles if role not in expressions]
    if strange:
        raise ModelError(f"it is of another model: it has no {strange[0] or 'tensor without a role'}", path=path)
    return expressions
