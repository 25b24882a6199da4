"""How a checkpoint of sentence-transformers makes vectors of texts: modules.json and what it names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ggq.convert.source.checkpoint import Checkpoint
from ggq.convert.source.folder import Folder
from ggq.convert.source.json_input import load_json, load_object
from ggq.convert.source.safetensors_header import read_header
from ggq.errors import FormatError, UnsupportedError
from ggq.models.fields import Fields, shown
from ggq.models.parts import WIDTH
from ggq.models.text.parts import Dense
from ggq.models.text.pooling import Pooling

MODULES, TRANSFORMER = "modules.json", "sentence_bert_config.json"
LARGEST = 1 << 20
"""Bytes of any of these files."""

POOLS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first", "pooling_mode_lasttoken": "last"}
"""Ways of 1_Pooling/config.json, and ours."""

_PLACE = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)

KNOWN = ("Transformer", "Pooling", "Dense", "Normalize")

DENSE_ACTIVATIONS = {"Identity": "none", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu"}
"""Classes of PyTorch that a matrix may name, and ours."""

DENSE_WEIGHTS = "model.safetensors"


def read_pooling(folder: Folder, asked: str | None = None) -> Pooling | None:
    """What modules.json asks for; None where there is none and nothing was asked for.

    Args:
        folder: The checkpoint's.
        asked: "mean", "first" or "last", which counts more than what the files say.

    Raises:
        FormatError: A file does not parse, or holds a value of the wrong type.
        UnsupportedError: A module or a way of pooling that is not supported.
        ConvertError: A file cannot be used; see `Folder`.
    """
    if MODULES not in folder:
        return None if asked is None else Pooling(asked, normalized=False)
    path = folder.path / MODULES
    listed = load_json(folder.read(MODULES, LARGEST), path)
    if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
        raise FormatError(f"{shown(listed)} found, a list of modules expected", path=path)
    modules, dense = {}, list[tuple[Dense, str]]()
    for place, module in enumerate(listed):
        fields = Fields(module, path, f"{place}.")
        kind = fields.text("type").rpartition(".")[2]
        if kind not in KNOWN:
            raise fields.unsupported("type", f"{shown(kind)} is not supported; supported: {', '.join(KNOWN)}")
        modules[kind] = fields.text("path", "")
        if kind == "Normalize" and any(Fields(each, path).text("type").endswith("Dense") for each in listed[place:]):
            raise fields.unsupported("type", "a matrix behind Normalize is not supported")
        if not _PLACE.fullmatch(modules[kind]):
            raise fields.error("path", f"{shown(modules[kind])} found, the name of a folder expected")
        if kind == "Dense" and not modules[kind]:
            raise fields.error("path", "missing")
        if kind == "Dense":
            dense.append(_dense(folder, modules[kind]))
    if len(dense) > 2:
        raise UnsupportedError(f"{len(dense)} matrices behind the pooling; up to 2 are supported", path=path)
    context = None
    if TRANSFORMER in folder:
        described = Fields(_object(folder, TRANSFORMER), folder.path / TRANSFORMER)
        if "max_seq_length" in described:
            context = described.integer("max_seq_length", (1, 1 << 27))
    pool = asked
    if pool is None and "Pooling" in modules:
        pool = _pool(folder, f"{modules['Pooling']}/config.json")
    return Pooling(pool, "Normalize" in modules, context, tuple(dense))


def _dense(folder: Folder, place: str) -> tuple[Dense, str]:
    """A matrix behind the pooling, and what the names of its tensors begin with (`add_dense`)."""
    fields = Fields(_object(folder, f"{place}/config.json"), folder.path / place / "config.json")
    name = fields.text("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[2]
    if name not in DENSE_ACTIVATIONS:
        known = ", ".join(DENSE_ACTIVATIONS)
        raise fields.unsupported("activation_function", f"{shown(name)} is not supported; supported: {known}")
    width = fields.integer("out_features", (1, WIDTH))
    return Dense(width, fields.flag("bias", True), DENSE_ACTIVATIONS[name], None), f"{place}.linear"


def add_dense(checkpoint: Checkpoint, pooling: Pooling | None) -> None:
    """Have the matrices behind a pooling among a checkpoint's tensors."""
    for _, where in pooling.dense if pooling is not None else ():
        place = f"{where.removesuffix('.linear')}/{DENSE_WEIGHTS}"
        file = read_header(checkpoint.folder.locate(place)[0], checkpoint.folder.path / place)
        tensors = (replace(each, name=f"{where.removesuffix('linear')}{each.name}") for each in file.tensors)
        checkpoint.add_file(replace(file, tensors=tuple(tensors)))


def _pool(folder: Folder, name: str) -> str:
    """The only way of pooling that a file asks for."""
    fields = Fields(_object(folder, name), folder.path / name)
    asked = [key for key, value in fields.values.items() if key.startswith("pooling_mode_") and value]
    unknown = [key for key in asked if key not in POOLS]
    if unknown or len(asked) != 1:
        what = shown(", ".join(asked) or "no way of pooling")
        raise UnsupportedError(f"{what} is not supported; supported: one of {', '.join(POOLS)}", path=fields.path)
    if not fields.flag("include_prompt", True):
        raise fields.unsupported("include_prompt", "false is not supported; supported: true")
    return POOLS[asked[0]]


def _object(folder: Folder, name: str) -> Mapping[str, Any]:
    return load_object(folder.read(name, LARGEST), folder.path / name)
