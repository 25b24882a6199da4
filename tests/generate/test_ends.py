"""What ends a text: special tokens as stop strings, and what generation_config.json says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.convert.convert import convert
from ggq.generate.options import MAX_TOKENS, default_limit, default_stops
from tests.kit.checkpoints import edit_json, numbers, replace_tensors

WEIGHTS = "model.safetensors"


@pytest.fixture
def talker(folder: Path) -> Path:
    """A model that says 40, 41, 2 (the special token <|pad|>), 42, 43, 44 ... and never its end."""
    path = folder / WEIGHTS
    follows = {5: 40, 40: 41, 41: 2, 2: 42, **{token: token + 1 for token in range(42, 60)}}
    rng = np.random.default_rng(0)
    embedding = rng.standard_normal((320, 32)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    head = np.zeros((320, 32), np.float32)
    for token, after in follows.items():
        head[after] += 8 * embedding[token]
    changes = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": head,
        "model.norm.weight": np.ones(32, np.float32),
    }
    for layer in range(2):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            full = f"model.layers.{layer}.{name}.weight"
            changes[full] = np.zeros_like(numbers(path, full))
    replace_tensors(path, changes)
    edit_json(folder / "config.json", tie_word_embeddings=False)
    return folder


def answer(folder: Path, settings: dict[str, Any] | None = None, **options: Any) -> tuple[str | None, list[int]]:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": 1, **(settings or {})}))
    out = folder.parent / "talk.ggq"
    convert(folder, out, scheme="f32", embedding="f32", force=True)
    with ggq.load(out, interpreter="numpy") as model:
        stream = model.stream([5], temperature=0, **options)
        list(stream)
        return stream.answer.finish_reason, stream.answer.tokens


def test_a_special_token_as_stop_string(talker: Path) -> None:
    assert answer(talker, max_tokens=8) == ("length", [40, 41, 2, 42, 43, 44, 45, 46])
    assert answer(talker, max_tokens=8, stop=["<|pad|>"]) == ("stop", [40, 41, 2])
    assert answer(talker, max_tokens=8, stop=["pad|"]) == ("stop", [40, 41, 2])


@pytest.mark.parametrize("stop", ["<|pad|>", ["nothing", "<|pad|>"]])
def test_the_models_own_stop_strings(talker: Path, stop: object) -> None:
    settings = {"stop_strings": stop}
    assert answer(talker, settings, max_tokens=8) == ("stop", [40, 41, 2])
    assert answer(talker, settings, max_tokens=4, stop=[]) == ("length", [40, 41, 2, 42])


def test_the_models_own_limit_and_several_ends(talker: Path) -> None:
    assert answer(talker, {"max_new_tokens": 3}) == ("length", [40, 41, 2])
    assert answer(talker, {"max_new_tokens": 3}, max_tokens=4) == ("length", [40, 41, 2, 42])
    assert answer(talker, {"eos_token_id": [1, 43, -1, 99999]}, max_tokens=9) == ("end", [40, 41, 2, 42])


@pytest.mark.parametrize("value", [None, 0, -5, "7", 2.5, True, [3]])
def test_a_limit_that_is_none_is_left_out(value: object) -> None:
    assert default_limit({"max_new_tokens": value}) == MAX_TOKENS


@pytest.mark.parametrize(("value", "expected"), [(None, []), (5, []), ("", []), (["", 3, "a"], ["a"]), ({"a": 1}, [])])
def test_stop_strings_that_are_none_are_left_out(value: object, expected: list[str]) -> None:
    assert default_stops({"stop_strings": value}) == expected
