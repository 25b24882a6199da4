"""spec/metadata.md against the code that reads and writes a model's metadata."""

from __future__ import annotations

import json
import re

import pytest

from ggq.models.metadata import CHOICES, to_metadata
from ggq.models.registry import find_architecture
from tests.kit.support import DEMO, ROOT

SPEC = (ROOT / "spec" / "metadata.md").read_text(encoding="utf-8")
TYPES = {"string": str, "integer": int, "number": float, "bool": bool}


def table(first: str) -> list[list[str]]:
    """The rows of the table after a heading, without its head."""
    section = SPEC.split(f"\n## {first}\n")[1].split("\n## ")[0]
    text = re.findall(r"((?:^\|.*\|\n)+)", section, re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_the_keys_of_a_model_are_those_that_are_written() -> None:
    hf = json.loads((DEMO / "config.json").read_text())
    written = to_metadata(find_architecture(hf).config(hf), "LlamaForCausalLM")
    rows = table("Model")
    assert [row[0] for row in rows] == list(written)
    for key, kind, _, _ in rows:
        assert type(written[key]) is TYPES[kind], key


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_the_words_that_are_allowed_are_in_the_table(name: str) -> None:
    (meaning,) = [row[3] for row in table("Model") if row[0].rsplit(".", 1)[1] == name]
    assert set(CHOICES[name]) <= set(re.findall(r"`(\w+)`", meaning))


@pytest.mark.parametrize("biases", [False, True])
def test_the_roles_of_tensors_are_those_of_the_architecture(biases: bool) -> None:
    hf = json.loads((DEMO / "config.json").read_text())
    hf |= {"attention_bias": biases, "mlp_bias": biases, "tie_word_embeddings": not biases}
    architecture = find_architecture(hf)
    config = architecture.config(hf)
    sizes = {"vocabulary": config.vocabulary_size, "hidden": config.hidden_size, "heads": config.heads}
    sizes |= {"kv_heads": config.kv_heads, "head_dim": config.head_dim, "intermediate": config.intermediate_size}
    section = SPEC.split("**M-6**")[1]
    rows = re.findall(r"^\| ([a-zN][\w.]*\.(?:weight|bias)) \| (.*?) \| (.*?) \|$", section, re.MULTILINE)
    there = {
        "always": True,
        "unless tied": biases,
        **{f"with {name}_bias": biases for name in ("query", "output", "mlp")},
    }
    expected = {}
    for role, shape, when in rows:
        dimensions = []
        for text in shape.split(","):
            size = 1
            for factor in text.split("*"):
                size *= sizes[factor.strip()]
            dimensions.append(size)
        if there[when]:
            for layer in range(config.layers) if ".N." in role else (0,):
                expected[role.replace(".N.", f".{layer}.")] = tuple(dimensions)
    found = {spec.role: spec.shape for spec in architecture.tensors(config) if spec.role and spec.required}
    assert found == expected
