"""Tokens that a tokenizer's side files declare (S-15 to S-17), ids past the vocabulary (S-14), no tokenizer at all.

The expected ids are what transformers 5.24 makes of the same files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.convert.convert import convert, plan
from ggq.errors import ConvertError, FormatError, GGQError, ModelError
from tests.kit.checkpoints import edit_json, refused

PLAIN = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
LAST = ["<|x|>", "<|y|>"]


@pytest.fixture
def declared(folder: Path) -> Path:
    """A checkpoint whose last two tokens are in no list yet: the ids 318 and 319 are free."""
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    vocabulary = document["model"]["vocab"]
    gone = {token for token, number in vocabulary.items() if number >= 318}
    document["model"]["vocab"] = {token: number for token, number in vocabulary.items() if token not in gone}
    document["model"]["merges"] = [
        pair
        for pair in document["model"]["merges"]
        if "".join(pair if isinstance(pair, list) else pair.split(" ")) not in gone
    ]
    path.write_text(json.dumps(document))
    return folder


def opened(folder: Path) -> ggq.Model:
    out = folder.parent / "side.ggq"
    convert(folder, out, scheme="f32", embedding="f32", force=True)
    return ggq.load(out, interpreter="numpy")


SIDES: list[tuple[str, dict[str, dict[str, Any]]]] = [
    (
        "added_tokens_decoder",
        {
            "tokenizer_config.json": {
                "added_tokens_decoder": {
                    str(318 + i): {"content": t, "special": True, **PLAIN} for i, t in enumerate(LAST)
                },
                "eos_token": "<|y|>",
            }
        },
    ),
    (
        "added_tokens.json",
        {"added_tokens.json": {"<|x|>": 318, "<|y|>": 319}, "tokenizer_config.json": {"eos_token": "<|y|>"}},
    ),
    (
        "special_tokens_map.json",
        {
            "special_tokens_map.json": {"mask_token": "<|x|>", "eos_token": {"content": "<|y|>", **PLAIN}},
            "tokenizer_config.json": {"eos_token": "<|end|>"},
        },
    ),
    ("extra_special_tokens", {"tokenizer_config.json": {"extra_special_tokens": ["<|x|>"], "eos_token": "<|y|>"}}),
    (
        "additional_special_tokens",
        {
            "special_tokens_map.json": {"additional_special_tokens": ["<|x|>"]},
            "tokenizer_config.json": {"eos_token": "<|y|>"},
        },
    ),
]


@pytest.mark.parametrize(("files"), [files for _, files in SIDES], ids=[name for name, _ in SIDES])
def test_tokens_of_side_files_are_tokens(declared: Path, files: dict[str, dict[str, Any]]) -> None:
    for name, values in files.items():
        if not (declared / name).exists():
            (declared / name).write_text("{}")
        edit_json(declared / name, **values)
    with opened(declared) as model:
        ids = {text: model.encode(text, begin=False) for text in LAST}
        assert set(map(tuple, ids.values())) == {(318,), (319,)}, ids
        assert model.encode("a<|y|>", begin=False)[-1:] == ids["<|y|>"]
        assert ids["<|y|>"][0] in model.ends
        assert model.tokenizer.decode(ids["<|y|>"], skip_special_tokens=True) == ""


def test_a_declared_id_that_would_be_another_is_refused(declared: Path) -> None:
    (declared / "added_tokens.json").write_text('{"<|x|>": 319}')
    refused(declared, "added_tokens.json: token '<|x|>' has the id 319, behind tokenizer.json's it would be 318")


def test_side_files_do_not_count_where_the_config_lists_the_tokens(declared: Path) -> None:
    (declared / "added_tokens.json").write_text('{"<|x|>": 318}')
    edit_json(declared / "tokenizer_config.json", added_tokens_decoder={})
    with opened(declared) as model:
        assert len(model.encode("<|x|>", begin=False)) > 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "added_tokens_decoder: a list of 1 found"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "'x' found, a token's id"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"3": "a"}}, "'a' found, an object with a token's content"),
        ("added_tokens.json", {"<|x|>": "1e3"}, "'1e3' found, a token's id expected"),
        ("added_tokens.json", {"": 5}, "an object found, an object with a token's content"),
        ("tokenizer_config.json", {"extra_special_tokens": [3]}, "extra_special_tokens: 3 found, a token expected"),
    ],
)
def test_declarations_that_are_none(folder: Path, name: str, value: dict[str, Any], message: str) -> None:
    if not (folder / name).exists():
        (folder / name).write_text("{}")
    edit_json(folder / name, **value)
    refused(folder, message, FormatError)


# --- ids past the vocabulary (S-14)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(("given", "kept"), [(-1, ()), (320, ()), ([1, 320], (1,)), ([-1, 2**70], ()), (None, ())])
def test_ends_that_the_model_does_not_have_are_left_out(folder: Path, name: str, given: Any, kept: tuple[int]) -> None:
    for each in ("config.json", "generation_config.json"):
        edit_json(folder / each, eos_token_id=None, pad_token_id=99999)
    edit_json(folder / "tokenizer_config.json", eos_token=None)
    edit_json(folder / name, eos_token_id=given)
    planned = plan(folder)
    assert planned.tokens.eos == kept
    past = [item for item in (given if isinstance(given, list) else [given]) if item is not None and item >= 320]
    assert len([note for note in planned.notes if "left out: the vocabulary has 0 to 319" in note]) == len(past)


def test_a_token_without_a_row_is_told_and_harmless(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    document["added_tokens"].append({"id": 320, "content": "<pad>", "special": True, **PLAIN})
    (folder / "tokenizer.json").write_text(json.dumps(document))
    assert "added tokens up to 320 have no row in the embedding of 320" in plan(folder).notes[0]
    edit_json(folder / "tokenizer_config.json", pad_token="[PAD]")
    assert any("'[PAD]' left out" in note for note in plan(folder).notes)


# --- found at once, not at the first prompt


def test_numbers_that_nobody_reads_may_be_infinite(folder: Path) -> None:
    path = folder / "config.json"
    text = '{"time_step_limit": [0.0, Infinity], "x": NaN, "y": 1e999, "z": -Infinity,'
    path.write_text(text + path.read_text().lstrip()[1:])
    plan(folder)
    edit_json(path, rms_norm_eps=float("inf"))
    with pytest.raises(ModelError, match="rms_norm_eps: inf found"):
        plan(folder)


def test_a_checkpoint_without_a_tokenizer_computes_and_reads_no_text(folder: Path) -> None:
    with opened(folder) as model:
        expected = model.logits([5, 6, 7])
    (folder / "tokenizer.json").unlink()
    report = convert(folder, folder.parent / "bare.ggq", scheme="f32", embedding="f32")
    assert "no tokenizer.json" in report.notes[0]
    with ggq.load(report.path, interpreter="numpy") as model:
        np.testing.assert_array_equal(model.logits([5, 6, 7]), expected)
        assert ggq.evaluate(model, list(range(3, 40)), context=8).perplexity > 0
        stream = model.stream([5, 6], max_tokens=3, temperature=0)
        assert list(stream) and len(stream.answer.tokens) <= 3
        with pytest.raises(ModelError, match="the file holds no tokenizer"):
            model.encode("a text")


def test_a_tokenizer_that_fails_on_every_text_is_found(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    document["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    document["model"]["unk_token"] = "<nowhere>"
    document["model"]["vocab"] = {token: n for token, n in document["model"]["vocab"].items() if "a" not in token}
    document["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(document))
    error = refused(folder, "the tokenizer fails on the text 'a'", GGQError)
    assert isinstance(error, ConvertError)
