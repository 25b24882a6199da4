"""Perplexities as others compute them, against loops written as theirs are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import UsageError
from ggq.evaluate.recipes import llama_cpp_windows, strided_text
from ggq.generate.model import Model
from tests.kit.small_models import write_demo
from tests.kit.support import DEMO, run_ggq, shared

TEXT = (DEMO / "valid.txt").read_text()[:2500]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("recipes") / "demo.ggq")


@pytest.fixture(scope="module")
def model(path: Path) -> Any:
    with ggq.load(path, interpreter="numpy", activations="float32") as loaded:
        yield loaded


def log_probs(model: Model, ids: list[int]) -> np.ndarray:
    rows = model.logits(ids).astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def as_llama_perplexity(model: Model, ids: list[int], n_ctx: int, bos: int | None) -> float:
    """llama.cpp's `perplexity`: nll and count over chunks."""
    tokens = ([] if bos is None else [bos]) + ids
    nll, count, first = 0.0, 0, n_ctx // 2
    for chunk in range(len(tokens) // n_ctx):
        batch = tokens[chunk * n_ctx : (chunk + 1) * n_ctx]
        if bos is not None:
            batch[0] = bos
        rows = log_probs(model, batch)
        for j in range(first, n_ctx - 1):
            nll -= rows[j, batch[j + 1]]
        count += n_ctx - first - 1
    return float(np.exp(nll / count))


def as_transformers(model: Model, ids: list[int], max_length: int, stride: int) -> float:
    """The loop of "Perplexity of fixed-length models", loss and shift of labels included."""
    nll_sum, n_tokens, prev_end_loc = 0.0, 0, 0
    for begin_loc in range(0, len(ids), stride):
        end_loc = min(begin_loc + max_length, len(ids))
        trg_len = end_loc - prev_end_loc
        input_ids = ids[begin_loc:end_loc]
        target_ids = [-100] * (len(input_ids) - trg_len) + input_ids[len(input_ids) - trg_len :]
        rows, labels = log_probs(model, input_ids)[:-1], target_ids[1:]
        losses = [-rows[i, label] for i, label in enumerate(labels) if label != -100]
        num_valid_tokens = sum(label != -100 for label in target_ids)
        num_loss_tokens = num_valid_tokens - 1
        if losses and num_loss_tokens:
            nll_sum += float(np.mean(losses)) * num_loss_tokens
            n_tokens += num_loss_tokens
        prev_end_loc = end_loc
        if end_loc == len(ids):
            break
    return float(np.exp(nll_sum / n_tokens))


@pytest.mark.parametrize("context", [64, 65, 128])
def test_llama_cpp(model: Model, context: int) -> None:
    ids = model.encode(TEXT, begin=False)
    found = ggq.evaluate(model, TEXT, recipe="llama.cpp", context=context)
    assert found.perplexity == pytest.approx(as_llama_perplexity(model, ids, context, None), rel=1e-6)
    document = found.document()
    assert document["recipe"] == "llama.cpp" and document["scored_per_window"] == context - context // 2 - 1
    assert ggq.evaluate(model, TEXT, context=context).perplexity == found.perplexity
    ours = ggq.evaluate(model, TEXT, context=context, stride=context)
    assert ours.document()["recipe"] is None and abs(ours.perplexity / found.perplexity - 1) > 1e-4


@pytest.mark.parametrize(("context", "stride"), [(64, 32), (64, 64), (128, 50), (96, 7), (4096, 512)])
def test_transformers(model: Model, context: int, stride: int) -> None:
    limit = 300 if stride == 7 else 500
    context = min(context, model.config.context_length)
    ids = model.encode(TEXT)[:limit]
    found = ggq.evaluate(model, TEXT, recipe="hf", context=context, stride=min(stride, context), tokens=limit)
    expected = as_transformers(model, ids, context, min(stride, context))
    assert found.perplexity == pytest.approx(expected, rel=1e-6)
    assert found.document()["recipe"] == "hf" and found.document()["perplexity_error"] > 0


def test_windows_begin_with_the_token_that_the_model_expects() -> None:
    found = llama_cpp_windows(range(10, 40), 8, 1, None)
    assert found.ids.tolist()[:2] == [[1, 10, 11, 12, 13, 14, 15, 16], [1, 18, 19, 20, 21, 22, 23, 24]]
    assert found.count == 3 and found.scored == 3 and found.targets.tolist()[:3] == [14, 15, 16]
    assert llama_cpp_windows(range(10, 40), 8, None, 2).ids[1, 0] == 18


def test_strided_windows_score_every_token_once() -> None:
    for length, context, stride in ((100, 16, 8), (101, 16, 5), (16, 16, 4), (9, 16, 4), (33, 16, 15)):
        text = strided_text(list(range(length)), context, stride, None)
        targets = [int(token) for group in text.groups for token in group.targets]
        assert sorted(targets) == list(range(1, length)) and len(text.weights) == length - 1 == text.tokens
        assert text.count == sum(group.count for group in text.groups)


def test_what_cannot_be_combined_is_refused(path: Path, model: Model, tmp_path: Path) -> None:
    for options, message in (
        ({"recipe": "vllm"}, "recipe must be llama.cpp or hf, not 'vllm'"),
        ({"recipe": "hf", "reference": path}, "cannot be combined with a reference"),
        ({"recipe": "hf", "stride": 70, "context": 64}, "context 64 and stride 70"),
        ({"recipe": "llama.cpp", "stride": 7}, "windows lie side by side"),
        ({"recipe": "llama.cpp", "context": 2}, "context must be 3 or more"),
        ({"recipe": "llama.cpp", "tokens": 60, "context": 64}, "fewer than one window of 64"),
    ):
        with pytest.raises(UsageError, match=message):
            ggq.evaluate(model, TEXT, **options)  # type: ignore[arg-type]


def test_saved_logits_keep_their_recipe(path: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    common = ("eval", path, "--text", text, "--context", "64", "--interpreter", "numpy")
    saved = run_ggq(*common, "--recipe", "llama.cpp", "--save-logits", tmp_path / "a.logits", "--json")
    assert saved.returncode == 0, saved.stderr
    again = run_ggq(
        "eval", path, "--text", text, "--reference", tmp_path / "a.logits", "--interpreter", "numpy", "--json"
    )
    assert json.loads(again.stdout)["perplexity"] == pytest.approx(json.loads(saved.stdout)["perplexity"], rel=1e-6)
    plain = run_ggq(*common, "--stride", "64", "--save-logits", tmp_path / "b.logits")
    assert plain.returncode == 0, plain.stderr
    refused = run_ggq(*common, "--recipe", "llama.cpp", "--reference", tmp_path / "b.logits")
    assert refused.returncode == 2 and "leave out --recipe" in refused.stderr


def test_stories260k_is_as_llama_perplexity_has_it(tmp_path: Path) -> None:
    folder = shared("models", "stories260k")
    ggq.convert(folder, tmp_path / "s.ggq", scheme="f32", embedding="f32")
    text = shared("text", "wiki.test.raw").read_text()
    with ggq.load(tmp_path / "s.ggq", interpreter="numpy", activations="float32") as model:
        ids = model.encode(text, begin=False)[:3000]
        bos = model.reader.metadata["tokenizer.bos_id"]
        assert model.reader.metadata["tokenizer.add_bos"] is True
        found = ggq.evaluate(model, text, recipe="llama.cpp", context=512, tokens=3000)
        assert found.perplexity == pytest.approx(as_llama_perplexity(model, ids, 512, int(str(bos))), rel=1e-6)
