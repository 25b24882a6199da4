"""A tokenizer made of what a text needs gives the ids of the whole one, or there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import ggq
from ggq.text import quick_tokenizer
from tests.kit.support import DEMO, ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def setup(kind: str) -> Tokenizer:
    """A tokenizer of each family, trained on a text of this repository."""
    special = ["<|begin|>", "<|end|>"]
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    elif kind == "fallback":
        made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Sequence([decoders.ByteFallback()])
        fallback = [f"<0x{i:02X}>" for i in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", *fallback])
    else:
        made = Tokenizer(models.BPE(unk_token="?"))
        made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["?"])
    made.train_from_iterator([TEXT], trainer)
    made.add_special_tokens(special)
    token = made.token_to_id(special[0])
    made.post_processor = processors.TemplateProcessing(single=f"{special[0]} $A", special_tokens=[(special[0], token)])
    return made


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_tokenizer, "LEAST_BYTES", 0)
    monkeypatch.setattr(quick_tokenizer, "MOST_CHARACTERS", 10**6)


@pytest.mark.parametrize("kind", ["bytes", "fallback", "lower"])
def test_ids_and_text_are_those_of_the_whole_tokenizer(kind: str) -> None:
    whole, rng, made = setup(kind), np.random.default_rng(0), 0
    quick = quick_tokenizer.read(whole.to_str().encode())
    assert quick is not None
    for start in rng.integers(0, len(TEXT) - 200, 60).tolist():
        text = TEXT[start : start + int(rng.integers(1, 200))] + chr(int(rng.integers(32, 0x3000)))
        tokenizer = quick.encoder(text, None, lambda _: None)
        if tokenizer is None:
            continue
        made += 1
        for begin in (True, False):
            assert (
                tokenizer.encode(text, add_special_tokens=begin).ids == whole.encode(text, add_special_tokens=begin).ids
            )
        ids = [*whole.encode(text).ids, *rng.integers(0, whole.get_vocab_size() + 5, 9).tolist()]
        assert quick.decode(ids) == whole.decode(ids, skip_special_tokens=True)
    assert made > 40


def test_a_text_with_added_tokens_or_without_end_wants_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    data = setup("bytes").to_str().encode()
    quick = quick_tokenizer.read(data)
    assert quick is not None
    assert quick.encoder("a<|end|>b", None, lambda _: None) is None
    assert quick.encoder("a" * 100, None, lambda _: None) is None
    monkeypatch.setattr(quick_tokenizer, "MOST_CHARACTERS", 10)
    quick = quick_tokenizer.read(data)
    assert quick is not None
    assert quick.encoder("a b c", None, lambda _: None) is not None
    assert quick.encoder("d e f g", None, lambda _: None) is None


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no BPE": lambda d: d["model"].update(type="WordPiece"),
    "a suffix": lambda d: d["model"].update(end_of_word_suffix="</w>"),
    "dropout": lambda d: d["model"].update(dropout=0.1),
    "an id that does not follow": lambda d: d["added_tokens"][1].update(id=5000),
    "words only": lambda d: d["added_tokens"][0].update(single_word=True),
    "no merges": lambda d: d["model"].pop("merges"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_there_is_none_where_it_might_differ(change: str) -> None:
    document = json.loads(setup("bytes").to_str())
    CHANGES[change](document)
    assert quick_tokenizer.read(json.dumps(document).encode()) is None
    assert quick_tokenizer.read(b"{") is None


def test_a_model_writes_the_same_text_either_way(tmp_path: Any) -> None:
    path = tmp_path / "demo.ggq"
    ggq.convert(DEMO, path, scheme="q8-g32")
    with ggq.load(path) as quick, ggq.load(path) as whole:
        assert whole.tokenizer is not None
        prompt = "def add(a, b):\n"
        assert quick.encode(prompt) == whole.encode(prompt)
        assert quick.generate(prompt, max_tokens=8, temperature=0) == whole.generate(
            prompt, max_tokens=8, temperature=0
        )
        assert "tokenizer" not in quick.__dict__
