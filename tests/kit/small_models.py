"""Tiny random checkpoints, the same on every machine, and files made of them: what tests of the engine stand on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ggq.models.family import TensorSpec
from ggq.models.metadata import to_metadata
from ggq.models.registry import find_architecture
from tests.kit.support import DEMO

SIZES = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "hidden_act": "silu",
}
"""What the checkpoints have in common; the feed-forward is no multiple of 16."""

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "grouped": {
        **SIZES,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
    },
    "biased": {
        **SIZES,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    },
    "stretched": {  # a head dimension of its own, one key-value head, llama3 scaling as transformers 4 writes it
        **SIZES,
        "hidden_size": 40,
        "head_dim": 16,
        "num_key_value_heads": 1,
        "tie_word_embeddings": False,
        "rope_theta": 10000.0,
        "rope_scaling": {"rope_type": "llama3", **LLAMA3},
    },
    "stretched_5": {  # the same scaling as transformers 5 writes it
        **SIZES,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, **LLAMA3},
    },
}
"""config.json by name; together they have everything that a Llama may have."""


def numbers(count: int, seed: int) -> np.ndarray:
    """float32 (count,), spread evenly over -1 .. 1; from the generator's raw bits, which are the same everywhere."""
    raw = np.random.PCG64(seed).random_raw(count)
    return ((raw >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - 1).astype(np.float32)


def tensor(spec: TensorSpec, seed: int) -> np.ndarray:
    """A tensor of a plausible size: norms near 1, biases small, rows of matrices of unit variance."""
    values = numbers(int(np.prod(spec.shape)), seed).reshape(spec.shape)
    if spec.role.endswith("norm.weight"):
        return 1 + values / 2
    scale = 0.2 if len(spec.shape) == 1 else np.sqrt(3 / spec.shape[1])
    return (values * np.float32(scale)).astype(np.float32)


def checkpoint(config: Mapping[str, Any], seed: int = 1) -> dict[str, np.ndarray]:
    """Random float32 tensors of a config.json by their names in a checkpoint."""
    architecture = find_architecture(config)
    specs = [spec for spec in architecture.tensors(architecture.config(config)) if spec.role]
    return {spec.name: tensor(spec, seed * 1000 + index) for index, spec in enumerate(specs)}


class Arrays:
    """Arrays as the source of an expression."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = arrays

    def shape(self, name: str) -> tuple[int, ...]:
        return self.arrays[name].shape

    def rows(self, name: str, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        array = np.atleast_1d(self.arrays[name])
        found = array.reshape(-1, array.shape[-1])[start:stop].astype(np.float32)
        if out is None:
            return found
        out[...] = found
        return out


def made(spec: TensorSpec, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """A stored tensor, float32, from those of a checkpoint."""
    source = Arrays(tensors)
    assert spec.expression.shape(source.shape) == spec.shape, spec
    return spec.expression.rows(source, 0, int(np.prod(spec.shape[:-1]))).reshape(spec.shape)


def read_checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a real checkpoint in one safetensors file, as float32."""
    from safetensors import deserialize

    from ggq.quant import to_float32

    tensors = {}
    for name, found in deserialize((folder / "model.safetensors").read_bytes()):
        stored = np.frombuffer(found["data"], {"F32": np.float32, "BF16": np.uint16}[found["dtype"]])
        values = to_float32(stored, {"F32": "f32", "BF16": "bf16"}[found["dtype"]])
        tensors[name] = values.reshape(found["shape"])
    return tensors


def prompt(config: Mapping[str, Any], count: int, seed: int = 2) -> list[int]:
    """Random token ids."""
    half = int(config["vocab_size"]) / 2
    return [int((value + 1) * half) for value in numbers(count, seed)]


def write_demo(path: Path, scheme: str = "f32", **assets: bytes | None) -> Path:
    """The embedded checkpoint as a .ggq file with its tokenizer.

    Args:
        assets: More files, by their names with "_" for "."; None leaves one out.
    """
    hf = json.loads((DEMO / "config.json").read_text())
    names = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
    files = {name: (DEMO / name).read_bytes() for name in names}
    files.update({name.replace("_json", ".json").replace("_jinja", ".jinja"): data for name, data in assets.items()})  # type: ignore[misc]
    kept = {name: data for name, data in files.items() if data is not None}
    ends = {"tokenizer.eos_ids": [0], "tokenizer.add_bos": False}
    return write_ggq(path, hf, read_checkpoint(DEMO), scheme, kept, ends)


def write_ggq(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    scheme: str = "f32",
    assets: Mapping[str, bytes] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """A .ggq file of a checkpoint: matrices in one scheme, all else in f32, as the converter would lay it out.

    Args:
        metadata: Replaces or adds entries; None leaves one out.
    """
    from ggq.format import Writer
    from ggq.quant import encode_tensor, parse_scheme
    from tools.make_scheme_vectors import transformed

    architecture = find_architecture(config)
    model = architecture.config(config)
    entries: dict[str, Any] = {**to_metadata(model, config["architectures"][0]), **(metadata or {})}
    with Writer(path) as writer:
        for key, value in entries.items():
            if value is not None:
                writer.add_metadata(key, value)
        writer.add_asset("config.json", json.dumps(config).encode())
        for name, data in (assets or {}).items():
            writer.add_asset(name, data)
        for spec in architecture.tensors(model):
            if spec.role:
                chosen = parse_scheme(scheme if len(spec.shape) == 2 else "f32")
                values = made(spec, tensors)
                segments = transformed(values, chosen) if chosen.transform else encode_tensor(values, chosen)
                writer.add_tensor(spec.name, values.shape, chosen, segments, attributes={"role": spec.role})
        writer.finish()
    return path
