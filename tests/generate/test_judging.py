"""Scores of texts by decoders: asked for yes or no, or with a matrix behind their last row; likelihoods of texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import ggq
from ggq import load
from ggq.errors import UsageError
from ggq.generate.vectors import AFTER, BEFORE
from tests.kit.checkpoints import tiny

MARKS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "yes", "no")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small decoder whose last six tokens are the marks of a conversation and both answers."""
    folder = tiny(tmp_path_factory.mktemp("judge") / "m")
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    kept = {token: number for token, number in found["model"]["vocab"].items() if number < size - len(MARKS)}
    pairs = [each.split(" ") if isinstance(each, str) else each for each in found["model"]["merges"]]
    found["model"]["merges"] = [pair for pair in pairs if all(part in kept for part in (*pair, "".join(pair)))]
    found["model"]["vocab"] = kept
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    found["added_tokens"] += [
        {"id": size - len(MARKS) + number, "content": mark, **plain} for number, mark in enumerate(MARKS)
    ]
    path.write_text(json.dumps(found))
    ggq.convert(folder, folder.parent / "m.ggq", scheme="f32")
    return folder.parent / "m.ggq"


@pytest.mark.parametrize("interpreter", ["numpy", pytest.param("numba", marks=pytest.mark.kernels)])
def test_a_decoder_is_asked_as_the_model_card_has_it(reranker: Path, interpreter: str) -> None:
    texts = ["def f(a):", "return b"]
    with load(reranker, interpreter=interpreter, activations="float32") as model:
        found = model.rerank("f", texts, instruction="Find it")
        other = model.rerank("f", texts)
        for text, score in zip(texts, found, strict=True):
            middle = f"<Instruct>: Find it\n<Query>: f\n<Document>: {text}"
            parts = (model.encode(part, begin=False) for part in (BEFORE, middle, AFTER))
            last = model.logits([token for part in parts for token in part])[-1].astype(np.float64)
            yes, no = (model.encode(word, begin=False)[0] for word in ("yes", "no"))
            share = np.exp(last[yes]) / (np.exp(last[yes]) + np.exp(last[no]))
            assert score == pytest.approx(share, rel=1e-5) and 0 < score < 1
        assert not np.allclose(found, other) and found.dtype == np.float32
        assert model.rerank("f", []).shape == (0,)


def test_a_text_that_is_too_long_is_cut_before_what_follows_it(reranker: Path) -> None:
    with load(reranker, interpreter="numpy") as model:
        text = "return a " * model.config.context_length
        with pytest.raises(UsageError, match="the tokens of text 1 of 1"):
            model.rerank("f", [text], truncate=False)
        with pytest.warns(UserWarning, match="1 of 1 texts were cut"):
            assert 0 < model.rerank("f", [text])[0] < 1


def test_what_is_no_text_is_refused(reranker: Path) -> None:
    with load(reranker, interpreter="numpy") as model, pytest.raises(UsageError, match="texts are strings, not int"):
        model.rerank("f", [3])  # type: ignore[list-item]


@pytest.mark.parametrize("interpreter", ["numpy", pytest.param("numba", marks=pytest.mark.kernels)])
def test_likelihoods_of_a_text(reranker: Path, interpreter: str) -> None:
    with load(reranker, interpreter=interpreter, activations="float32") as model:
        tokens = model.encode("def f(a):\n    return a + 1\n")
        logits = model.logits(tokens).astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected = [logs[place, token] for place, token in enumerate(tokens[1:])]
        found = model.logprobs("def f(a):\n    return a + 1\n")
        assert found.dtype == np.float32 and len(found) == len(tokens) - 1
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert np.array_equal(model.logprobs(tokens), found) and model.logprobs(tokens[:1]).shape == (0,)
        with pytest.raises(UsageError, match="the prompt is empty"):
            model.logprobs([])
