"""Numbers that are not finite are told: no operation of the kernels turns them into finite ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.convert.convert import convert
from ggq.errors import ModelError
from tests.kit.checkpoints import edit_json, numbers, replace_tensors
from tests.kit.support import run_ggq

IDS = [7, 3, 9, 100, 200, 300, 7, 12]


@pytest.fixture
def loud(folder: Path) -> Path:
    """Keys of 90,000 by their bias: bf16 and float32 hold them, float16 does not."""
    edit_json(folder / "config.json", attention_bias=True)
    changes: dict[str, Any] = {}
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn."
        changes[name + "k_proj.bias"] = np.full(16, 90000, np.float32)
        query = name + "q_proj.weight"
        changes[query] = numbers(folder / "model.safetensors", query) * np.float32(1e-4)
    replace_tensors(folder / "model.safetensors", changes)
    return folder


def test_keys_beyond_float16_are_kept_in_float32_or_told(loud: Path) -> None:
    out = loud.parent / "loud.ggq"
    convert(loud, out, scheme="bf16", embedding="bf16")
    with ggq.load(out, activations="float32", cache="f32") as model:
        expected = model.logits(IDS)
    with ggq.load(out, activations="float32") as model:
        np.testing.assert_array_equal(model.logits(IDS), expected)
    assert np.isfinite(expected).all()
    with ggq.load(out, activations="float32", cache="f16") as model:
        for compute in (lambda: model.logits(IDS), lambda: model.generate(IDS, max_tokens=2)):
            with pytest.raises(ModelError, match="the model computed nan .*, first in attention of .*\n.*cache='f32'"):
                compute()


def test_the_command_line_chooses_the_type_of_keys_and_values(loud: Path) -> None:
    out, text = loud.parent / "loud.ggq", loud.parent / "text.txt"
    text.write_text("the cat sat on the mat " * 30)
    convert(loud, out, scheme="bf16", embedding="bf16")
    how = ("--text", text, "--context", "16", "--windows", "2", "--interpreter", "numpy", "--activations", "float32")
    found = {cache: run_ggq("eval", out, *how, "--json", "--cache", cache) for cache in ("f16", "f32")}
    assert found["f16"].returncode == 2 and "error:" in found["f16"].stderr and "NaN" in found["f16"].stderr
    document = json.loads(found["f32"].stdout)
    assert document["cache"] == "f32" and np.isfinite(document["perplexity"])
    said = run_ggq("run", out, "-p", "the cat", "-n", "2", "--interpreter", "numpy", "--cache", "f16")
    assert said.returncode == 2 and "the model computed nan" in said.stderr
    assert run_ggq("run", out, "-p", "the cat", "-n", "2", "--interpreter", "numpy", "--cache", "f32").returncode == 0
    for command in (("run", out, "-p", "x"), ("eval", out, "--text", text), ("bench", out), ("profile", out)):
        done = run_ggq(*command, "--cache", "f8")
        assert done.returncode == 2 and "error: --cache is 'f8', allowed are f16, f32" in done.stderr


@pytest.mark.parametrize("activations", ["int8", "float32"])
@pytest.mark.parametrize("bias", ["q", "k", "v", "o"])
def test_an_infinite_number_reaches_the_logits(folder: Path, activations: str, bias: str) -> None:
    """A bias of the largest float32 overflows in the operations behind it, in f16 first."""
    edit_json(folder / "config.json", attention_bias=True)
    largest = np.full({"k": 16, "v": 16}.get(bias, 32), 3.4e38, np.float32)
    name = f"model.layers.0.self_attn.{bias}_proj.bias"
    replace_tensors(folder / "model.safetensors", {name: largest})
    out = folder.parent / "large.ggq"
    convert(folder, out, scheme="q8-g32")
    with ggq.load(out, activations=activations, cache="f16") as model:
        try:
            assert np.isfinite(model.logits(IDS)).all() and bias in "oq"  # 3e38 is a number: a norm may bring it back
        except ModelError as error:
            assert "the model computed" in str(error)
            with pytest.raises(ModelError, match="the model computed"):
                model.generate(IDS, max_tokens=2)
