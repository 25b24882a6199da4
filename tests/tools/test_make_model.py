"""tools/make_model.py: checkpoints that other programs read, with a tokenizer that works."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from ggq.models.registry import find_architecture
from tests.kit.checkpoints import TINY, numbers, tiny
from tools import dense_shapes, hybrid_shapes
from tools.make_model import SHAPES, tensors, tokenizer

TEXTS = ["", "the rain in Spain", "naïve café 日本語 🙂", "a\x00b\tc\r\n  d", "x = [1, 2]; print(x)  # done"]


def test_the_safetensors_library_reads_what_was_written(tmp_path: Path) -> None:
    tiny(tmp_path / "m", dtype="f32", tied=False)
    with safe_open(tmp_path / "m" / "model.safetensors", "np") as file:
        assert {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} == tensors(TINY, tied=False)
        weights = file.get_tensor("lm_head.weight")
    assert abs(float(weights.mean())) < 0.001 and 0.019 < float(weights.std()) < 0.021
    assert np.array_equal(weights, numbers(tmp_path / "m" / "model.safetensors", "lm_head.weight"))


@pytest.mark.parametrize("module, shape", [(m, s) for m in (dense_shapes, hybrid_shapes) for s in m.SHAPES])
def test_other_shapes_have_the_tensors_that_the_family_reads(module: Any, shape: str) -> None:
    config = module.SHAPES[shape]
    family = find_architecture(config)
    specs = [each for each in family.tensors(family.config(config)) if each.role]
    shapes = module.tensors(config)
    assert {name for each in specs for name in each.expression.names()} == set(shapes)
    assert all(each.expression.shape(shapes.__getitem__) == each.shape for each in specs)


@pytest.mark.parametrize("dtype, bits", [("bf16", 8), ("f16", 11)])
def test_half_types_are_the_rounded_float32_weights(tmp_path: Path, dtype: str, bits: int) -> None:
    names = [tiny(tmp_path / kind, dtype=kind) / "model.safetensors" for kind in (dtype, "f32")]
    half, whole = (numbers(path, "model.layers.1.mlp.up_proj.weight") for path in names)
    large = np.abs(whole) > 1e-4  # above f16's subnormal numbers
    assert np.abs(half / whole - 1)[large].max() <= 2.0**-bits
    assert np.abs(half / whole - 1)[large].max() > 2.0 ** -(bits + 2)


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        tiny(tmp_path / name, seed=seed)
    a, b, c = (
        {path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())} for name in ("a", "b", "c")
    )
    assert a == b
    assert {name for name in a if a[name] != c[name]} == {"model.safetensors"}


def test_shards_hold_the_same_tensors_and_the_index_names_them(tmp_path: Path) -> None:
    tiny(tmp_path / "one")
    tiny(tmp_path / "three", shards=3)
    index = json.loads((tmp_path / "three" / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == set(tensors(TINY, tied=True)) and len(set(index.values())) == 3
    for name, shard in index.items():
        left, right = numbers(tmp_path / "three" / shard, name), numbers(tmp_path / "one" / "model.safetensors", name)
        assert np.array_equal(left, right)


@pytest.mark.parametrize("vocabulary", [259, 320, 49152])
def test_the_tokenizer_has_as_many_tokens_as_asked_and_gives_every_text_back(vocabulary: int) -> None:
    found = Tokenizer.from_str(json.dumps(tokenizer(vocabulary)))
    assert found.get_vocab_size() == vocabulary and max(found.get_vocab().values()) == vocabulary - 1
    for text in TEXTS:
        ids = found.encode(text).ids
        assert ids[0] == 0 and found.decode(ids) == text


def test_the_largest_tokenizer_is_made_in_seconds_and_shortens_text() -> None:
    start = time.perf_counter()
    found = Tokenizer.from_str(json.dumps(tokenizer(SHAPES["0.5b"][-1])))
    assert time.perf_counter() - start < 20
    assert len(found.encode("the rain in the other land").ids) < 15


def test_a_vocabulary_without_room_for_all_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="a vocabulary of 258: at least 259 needed"):
        tokenizer(258)
