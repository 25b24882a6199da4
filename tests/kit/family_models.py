"""Models of every family for tests: their checkpoints, executors, and what transformers computes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ggq.format.scheme import Scheme
from ggq.generate.loading import load
from ggq.models.build import build_program
from ggq.models.family import Family
from ggq.models.parts import ModelSpec
from ggq.models.registry import find_architecture
from ggq.quant.stored import StoredWeight
from ggq.tape.program import Run
from ggq.tape.reference import NumpyExecutor
from tests.kit.checkpoints import write_safetensors
from tests.kit.small_families import FAMILIES as CONFIGS
from tests.kit.small_families import LAST, family_checkpoint
from tests.kit.small_models import made

GOLDEN = Path(__file__).parents[1] / "golden"
FACTS: dict[str, Any] = json.loads((GOLDEN / "families.json").read_text())
LOGITS = np.load(GOLDEN / "families.npz")
F32 = Scheme("float", 32, "f32")


TOLERANCE = 1e-5
"""Of the largest logit: what transformers' float32 norms and angles move. The same model without one of its differences
from Llama is off by a hundred times as much and more."""

VOCABULARY = 61


def tensors_of(name: str) -> Iterable[tuple[str, list[int]]]:
    """The tensors of a checkpoint by name, with their shapes."""
    return FACTS["models"][name]["tensors"].items()


def checkpoint(name: str) -> dict[str, np.ndarray]:
    return family_checkpoint(name, FACTS["models"][name]["tensors"])


def spec_of(name: str) -> tuple[Family, ModelSpec]:
    family = find_architecture(CONFIGS[name])
    return family, family.config(CONFIGS[name])


def expected(name: str) -> list[np.ndarray]:
    return [LOGITS[f"{name}.{number}"] for number in range(len(LAST))]


def forward(executor: Any, runs: list[tuple[int, list[int], str]]) -> np.ndarray:
    wanted = [Run(sequence, np.array(tokens, np.int32), logits) for sequence, tokens, logits in runs]
    return np.asarray(executor.forward(wanted))


def last_logits(executor: Any, name: str) -> list[np.ndarray]:
    """The last logits of all prompts of a model, together in one batch."""
    prompts = FACTS["models"][name]["prompts"]
    found = forward(executor, [(executor.open_sequence(), tokens, "all") for tokens in prompts])
    ends = np.cumsum([len(tokens) for tokens in prompts])
    return [found[end - last : end] for end, last in zip(ends, LAST, strict=True)]


def error(found: list[np.ndarray], name: str) -> float:
    """The largest difference from transformers' logits, relative to the largest of these."""
    pairs = zip(found, expected(name), strict=True)
    return max(float(np.abs(got - want).max() / np.abs(want).max()) for got, want in pairs)


def reference(spec: ModelSpec, name: str, expression: Callable[[str, ModelSpec], Any] | None = None) -> NumpyExecutor:
    """The slow executor of a model with the tensors of a checkpoint, in float64 with a float32 cache."""
    family, tensors = find_architecture(CONFIGS[name]), checkpoint(name)
    if expression is not None:
        family = replace(family, expression=expression)
    specs = {each.role: each for each in family.tensors(spec) if each.role}

    def weights(role: str) -> StoredWeight:
        return StoredWeight(F32, made(specs[role], tensors))

    return NumpyExecutor(build_program(spec), weights, "float32", "f32")


@contextmanager
def opened(path: Path, interpreter: str, **options: str) -> Iterator[Any]:
    model = load(path, interpreter=interpreter, **options)
    try:
        yield model.executor
    finally:
        model.close()


def write_checkpoint(
    folder: Path, name: str, vocabulary: int = VOCABULARY, config: dict[str, Any] | None = None
) -> Path:
    """A checkpoint as transformers saves it, without a tokenizer; with another config.json where that is given."""
    shapes = {
        key: [vocabulary if rows == VOCABULARY else rows for rows in shape[:1]] + shape[1:]
        for key, shape in tensors_of(name)
    }
    folder.mkdir(exist_ok=True)
    given = config or CONFIGS[name]
    keys = ("vocab_size", "vocab_size_per_layer_input")
    sizes = {key: vocabulary for key in keys if given.get(key) == VOCABULARY}
    (folder / "config.json").write_text(json.dumps({**given, **sizes}))
    header: dict[str, Any] = {}
    data = b""
    for tensor, values in family_checkpoint(name, shapes).items():
        end = len(data) + values.nbytes
        header[tensor] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), end]}
        data += values.tobytes()
    write_safetensors(folder / "model.safetensors", header, data)
    return folder
