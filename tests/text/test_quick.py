"""A tokenizer made of what a text needs gives the ids of the whole one, or there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import ggq
from ggq.text.quick import kept, tokenizer, vocabulary
from ggq.text.quick.tokenizer import QuickTokenizer
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
def of_any_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tokenizer, "LEAST_BYTES", 0)
    monkeypatch.setattr(tokenizer, "MOST_CHARACTERS", 10**6)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def quick_of(whole: Tokenizer) -> QuickTokenizer:
    """Made anew of a tokenizer's document."""
    made = vocabulary.make_vocabulary(whole.to_str().encode())
    assert made is not None
    return QuickTokenizer(made)


@dataclass
class Document:
    """A tokenizer.json that counts how often it is read."""

    data: bytes
    identity: bytes = b"\1" * 32
    reads: int = 0

    def read(self) -> bytes:
        self.reads += 1
        return self.data


def agree(quick: QuickTokenizer, whole: Tokenizer, text: str) -> bool:
    """Whether there is a quick tokenizer for a text; its ids are the whole one's."""
    found = quick.encoder(text, None, lambda _: None)
    for begin in (True, False) if found is not None else ():
        assert found.encode(text, add_special_tokens=begin).ids == whole.encode(text, add_special_tokens=begin).ids
    return found is not None


@pytest.mark.parametrize("kind", ["bytes", "fallback", "lower"])
def test_ids_and_text_are_those_of_the_whole_tokenizer(kind: str) -> None:
    whole, rng, made = setup(kind), np.random.default_rng(0), 0
    quick = quick_of(whole)
    for start in rng.integers(0, len(TEXT) - 200, 60).tolist():
        text = TEXT[start : start + int(rng.integers(1, 200))] + chr(int(rng.integers(32, 0x3000)))
        made += agree(quick, whole, text)
        ids = [*whole.encode(text).ids, *rng.integers(0, whole.get_vocab_size() + 5, 9).tolist()]
        assert quick.decode(ids) == whole.decode(ids, skip_special_tokens=True)
    assert made > 40


@pytest.mark.parametrize("kind", ["bytes", "fallback", "lower"])
@pytest.mark.parametrize("strips", [False, True])
def test_added_tokens_in_a_text_are_found_as_the_whole_tokenizer_finds_them(kind: str, strips: bool) -> None:
    whole, rng = setup(kind), np.random.default_rng(1)
    more = ["<|end|>>", "def", "a b", "é"]
    whole.add_tokens([AddedToken(text, lstrip=strips, rstrip=strips, normalized=False) for text in more])
    quick, made = quick_of(whole), 0
    for start in rng.integers(0, len(TEXT) - 60, 100).tolist():
        text = TEXT[start : start + int(rng.integers(1, 60))]
        for _ in range(int(rng.integers(1, 4))):
            at, token = int(rng.integers(0, len(text) + 1)), str(rng.choice(["<|begin|>", " <|end|>>>", *more]))
            text = f"{text[:at]}{token}{text[at:]}"
        made += agree(quick, whole, text)
    assert made > 60


def test_a_token_that_normalizing_may_make_wants_the_whole() -> None:
    whole = setup("lower")
    whole.add_tokens([AddedToken("ABC", normalized=True), AddedToken("xyz", normalized=False)])
    quick = quick_of(whole)
    assert not agree(quick, whole, "one ABC two") and not agree(quick, whole, "one abc two")
    assert not agree(quick, whole, "xyz and XYZ") and agree(quick, whole, "xyz and others") and agree(quick, whole, "b")


def test_more_characters_than_a_short_text_has_want_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = setup("bytes")
    monkeypatch.setattr(tokenizer, "MOST_CHARACTERS", 10)
    quick = quick_of(whole)
    assert agree(quick, whole, "a b c") and not agree(quick, whole, "d e f g")


def test_equal_parts_have_equal_hashes_and_others_do_not() -> None:
    text = "abcabc\0ab\0\0 \U0001f642abc"
    parts = [(start, stop) for start in range(len(text)) for stop in range(start, len(text) + 1)]
    starts, stops = np.array(parts).T
    found = vocabulary.hashes(vocabulary.characters(text), starts, stops)
    by_part: dict[str, set[int]] = {}
    for (start, stop), number in zip(parts, found.tolist()):
        by_part.setdefault(text[start:stop], set()).add(number)
    assert all(len(numbers) == 1 for numbers in by_part.values())
    assert len(set.union(*by_part.values())) == len(by_part)


def test_a_vocabulary_is_kept_and_found_again() -> None:
    whole = setup("fallback")
    document = Document(whole.to_str().encode())
    for _ in range(2):
        quick = tokenizer.read(document)
        assert quick is not None and document.reads == 1
        assert agree(quick, whole, "def add(a, b):\n")
    other = Document(setup("bytes").to_str().encode(), identity=b"\2" * 32)
    quick = tokenizer.read(other)
    assert quick is not None and other.reads == 1 and agree(quick, setup("bytes"), "def add(a, b):\n")


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "others may write", "folder", "link"])
def test_what_was_kept_and_is_damaged_or_a_strangers_is_made_anew(damage: str, tmp_path: Path) -> None:
    document = Document(setup("bytes").to_str().encode())
    assert tokenizer.read(document) is not None
    (path,) = (tmp_path / "cache" / "ggq" / "tokenizers").glob("compact-*")
    data = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    elif damage in ("cut", "empty"):
        path.write_bytes(data[: len(data) // 2 if damage == "cut" else 0])
    elif damage == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        (path if damage == "others may write" else path.parent).chmod(0o777)
    assert kept.find(document.identity) is None
    assert tokenizer.read(document) is not None and document.reads == 2


def test_where_nothing_can_be_kept_it_is_made_each_time(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    document = Document(setup("bytes").to_str().encode())
    for reads in (1, 2):
        assert tokenizer.read(document) is not None and document.reads == reads


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no BPE": lambda d: d["model"].update(type="WordPiece"),
    "a suffix": lambda d: d["model"].update(end_of_word_suffix="</w>"),
    "dropout": lambda d: d["model"].update(dropout=0.1),
    "an id that does not follow": lambda d: d["added_tokens"][1].update(id=5000),
    "words only": lambda d: d["added_tokens"][0].update(single_word=True),
    "no merges": lambda d: d["model"].pop("merges"),
    "a merge of no token": lambda d: d["model"]["merges"].append(["a", "no token"]),
    "a merge that makes no token": lambda d: d["model"]["merges"].append(["}", "Q"]),
    "an id twice": lambda d: d["model"]["vocab"].update(a=d["model"]["vocab"]["b"]),
    "a long token": lambda d: d["model"]["vocab"].update({"a" * 600: 10**6}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_there_is_none_where_it_might_differ(change: str) -> None:
    document = json.loads(setup("bytes").to_str())
    CHANGES[change](document)
    assert tokenizer.read(Document(json.dumps(document).encode())) is None
    assert tokenizer.read(Document(b"{")) is None


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
