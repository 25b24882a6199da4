"""Checkpoints whose tensors, config.json and tokenizer do not fit each other: refused before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.convert.convert import convert
from ggq.errors import ConvertError, FormatError, GGQError, ModelError, UnsupportedError
from tests.kit.checkpoints import TINY, UP, edit_json, refused, replace_tensors
from tools.make_model import tensors

# --- tensors against config.json


@pytest.mark.parametrize(
    "changes, message",
    [
        ({UP: None}, f"1 of 2[0-9] tensors missing: '{UP}'"),
        (
            dict.fromkeys([n for n in tensors(TINY, True) if "layers.1" in n]),
            "9 of 2[0-9] tensors missing: .* and 4 more",
        ),
        (
            {"model.layers.0.extra.weight": np.ones(3, np.float32)},
            "1 tensors that the architecture does not have, and that would change it: 'model.layers",
        ),
        ({"model.norm.\x1b[31m\u202e": np.ones(3, np.float32)}, r"would change it: 'model.norm.\\x1b\[31m\\u202e'"),
        ({"model.layers.2.mlp.up_proj.weight": np.ones((44, 32), np.float32)}, "does not have"),
        (
            {UP: np.zeros((32, 44), np.float32)},
            rf"tensor {UP}: shape \[32, 44\] found, config.json asks for \[44, 32\]",
        ),
        ({UP: np.zeros(44 * 32, np.float32)}, r"shape \[1408\] found"),
        ({UP: np.zeros((1, 44, 32), np.float32)}, r"shape \[1, 44, 32\] found"),
        ({"model.norm.weight": np.zeros((), np.float32)}, r"shape \[\] found"),
        ({UP: np.zeros((44, 0), np.float32)}, r"shape \[44, 0\] found"),
        ({"lm_head.weight": np.zeros((3, 32), np.float32)}, r"lm_head.weight: shape \[3, 32\] found"),
        ({"model.layers.0.self_attn.q_proj.bias": np.ones(32, np.float32)}, "does not have, .*bias"),
    ],
)
def test_tensors_missing_unknown_or_misshapen(folder: Path, changes: dict[str, Any], message: str) -> None:
    replace_tensors(folder / "model.safetensors", changes)
    refused(folder, message, ConvertError)


@pytest.mark.parametrize(
    "changes, kind, message",
    [
        (
            {"architectures": ["T5ForConditionalGeneration"]},
            UnsupportedError,
            "'T5.*' is not supported; supported: Llama",
        ),
        ({"architectures": None, "model_type": None}, UnsupportedError, "architectures: missing; supported: Llama"),
        ({"architectures": [], "model_type": 5}, UnsupportedError, "model_type: 5 is not supported"),
        ({"architectures": [5]}, ModelError, "architectures"),
        ({"architectures": ["\x1b[2J"]}, UnsupportedError, r"'\\x1b\[2J' is not supported"),
        ({"hidden_size": None}, ModelError, "hidden_size: missing"),
        ({"hidden_size": 0}, ModelError, "hidden_size"),
        ({"hidden_size": "32"}, ModelError, "hidden_size"),
        ({"hidden_size": 10**300}, ModelError, "hidden_size"),
        ({"num_hidden_layers": 10**9}, ModelError, "num_hidden_layers: 1000000000 found"),
        ({"num_hidden_layers": -1}, ModelError, "num_hidden_layers"),
        ({"num_attention_heads": 5}, ModelError, "heads"),
        ({"num_key_value_heads": 3}, ModelError, "heads"),
        ({"vocab_size": 10**9}, ModelError, "vocab_size"),
        (
            {"vocab_size": 321},
            ConvertError,
            r"embed_tokens.weight: shape \[320, 32\] found, config.json asks for \[321, 32\]",
        ),
        ({"max_position_embeddings": 2**40}, ModelError, "max_position_embeddings"),
        ({"rope_theta": 0}, ModelError, "rope_theta"),
        ({"hidden_act": "mish"}, UnsupportedError, "hidden_act"),
        ({"tie_word_embeddings": False}, ConvertError, "1 of 2[0-9] tensors missing: 'lm_head.weight'"),
    ],
)
def test_configs_that_mean_nothing_or_something_else(
    folder: Path, changes: dict[str, Any], kind: type[GGQError], message: str
) -> None:
    edit_json(folder / "config.json", **changes)
    refused(folder, message, kind)


@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.up_proj.qweight", UP + ".absmax", UP + "_scale", UP.replace("weight", "weight_packed")]
)
def test_quantized_checkpoints_are_refused(folder: Path, name: str) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": "some"})
    replace_tensors(folder / "model.safetensors", {name: np.ones(3, np.float32)})
    refused(folder, "quantization_config: the weights of this checkpoint are quantized already", UnsupportedError)


def test_float_weights_are_converted_whatever_config_json_says_of_them(folder: Path) -> None:
    """S-7: a training in 4 bits leaves its quantization_config with the merged weights."""
    edit_json(folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert convert(folder, folder.parent / "out.ggq", scheme="f32").tensors


# --- tokenizer


@pytest.mark.parametrize(
    "change, kind, message",
    [
        (lambda t: t.pop("model"), FormatError, "tokenizer.json: model: None found, an object expected"),
        (lambda t: t.update(model=[]), FormatError, "model: a list of 0 found"),
        (
            lambda t: t["model"].update(type="Quantum"),
            UnsupportedError,
            "model.type: tokenizer 'Quantum' is not supported",
        ),
        (lambda t: t["model"].update(type=None), UnsupportedError, "model.type: tokenizer None"),
        (lambda t: t["model"].update(vocab=5), FormatError, "the tokenizers library refuses it"),
        (lambda t: t["model"].update(merges=[["no", "such"]]), FormatError, "the tokenizers library refuses it"),
        (lambda t: t["model"]["vocab"].update(x1=-1), FormatError, "the tokenizers library refuses it"),
        (
            lambda t: t["model"]["vocab"].update(x1=320),
            ConvertError,
            "token 320 is past the end of the embedding, .* 320 rows",
        ),
        (lambda t: t["model"]["vocab"].update(x1=2**31), ConvertError, "token 2147483648 is past the end"),
        (
            lambda t: t["post_processor"].update(
                special_tokens={"<|begin|>": {"id": "<|begin|>", "ids": [400], "tokens": ["<|begin|>"]}}
            ),
            ConvertError,
            "post_processor: every text gets the token 400, and the model has 0 to 319",
        ),
    ],
)
def test_tokenizers_that_do_not_work_or_do_not_belong_to_the_model(
    folder: Path, change: Callable[[dict[str, Any]], Any], kind: type[GGQError], message: str
) -> None:
    value = json.loads((folder / "tokenizer.json").read_text())
    change(value)
    (folder / "tokenizer.json").write_text(json.dumps(value))
    refused(folder, message, kind)


def test_a_tokenizer_of_an_older_form_says_how_to_make_another(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_bytes(b"x")
    error = refused(
        folder,
        "vocab.txt: tokenizer_config.json: tokenizer_class: 'LlamaTokenizer' reads it",
        UnsupportedError,
    )
    assert "AutoTokenizer" in str(error.fix)


@pytest.mark.parametrize(
    "name, changes, kind, message",
    [
        ("config.json", {"bos_token_id": "0"}, FormatError, "bos_token_id: '0' found, a token's id expected"),
        ("config.json", {"bos_token_id": True}, FormatError, "bos_token_id: True found"),
        ("generation_config.json", {"eos_token_id": [[1]]}, FormatError, "a list of 1 found, a token's id expected"),
        ("tokenizer_config.json", {"bos_token": 3}, FormatError, "tokenizer_config.json: bos_token: 3 found"),
        ("tokenizer_config.json", {"eos_token": {"content": 3}}, FormatError, "eos_token: an object found"),
    ],
)
def test_special_tokens_of_the_wrong_type_or_past_the_end(
    folder: Path, name: str, changes: dict[str, Any], kind: type[GGQError], message: str
) -> None:
    edit_json(folder / name, **changes)
    refused(folder, message, kind)
