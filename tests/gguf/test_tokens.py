"""Vocabularies that are not merged by score: ways to cut texts, unigram and WordPiece ones, and what ends an answer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ggq.errors import GGQError, ModelError, UnsupportedError
from ggq.gguf.tokens.cuts import CUTS
from ggq.gguf.tokens.vocabulary import Vocabulary
from tests.kit.support import DEMO


def keys_of(model: str, tokens: list[str], types: list[int] | None = None, **more: Any) -> dict[str, Any]:
    found = {"model": model, "tokens": tokens, **more}
    if types is not None:
        found["token_type"] = np.array(types, np.int32)
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()}


def ids(keys: dict[str, Any], text: str, *, around: bool = False) -> list[int]:
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(Vocabulary(keys, "m").document())
    return list(found.encode(text, add_special_tokens=around).ids)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("llama-bpe", "It'S 12345  x", ["It", "'S", " ", "123", "45", " ", " x"]),
        ("qwen2", "a 12", ["a", " ", "1", "2"]),
        ("deepseek-v3", "ab1234_x \u4e2dz", ["ab", "123", "4", "_x", " ", "\u4e2d", "z"]),
        ("deepseek-llm", "ab 12\n", ["ab", " ", "1", "2", "\n"]),
        ("deepseek-coder", "ab (x", ["ab", " (", "x"]),
        ("falcon", "a 12345(b", ["a", " ", "123", "45", "(", "b"]),
        ("gpt-4o", "HTTPServer's a/\n", ["HTTPServer's", " a", "/\n"]),
        ("tekken", "aB12", ["a", "B", "1", "2"]),
        ("kimi-k2", "a\u4e2d\u6587b", ["a", "\u4e2d\u6587", "b"]),
        ("superbpe", "a b 1234567", ["a b ", "1", "234", "567"]),
        ("tiny_aya", "1234567 a", ["1", "234", "567", " a"]),
        ("afmoe", "12345", ["12", "345"]),
        ("bloom", "a b, c", ["a", " b", ",", " c"]),
        ("chameleon", "a    b!?", ["a", "    ", "b", "!", "?"]),
        ("default", "a+=12345", ["a", "+=", "123", "45"]),
    ],
)
def test_texts_are_cut(name: str, text: str, words: list[str]) -> None:
    from tokenizers import Tokenizer

    keys = keys_of("gpt2", ["a"], merges=[], pre=name)
    cut = Tokenizer.from_str(Vocabulary(keys, "m").document()).pre_tokenizer
    spans = [span for _, span in cut.pre_tokenize_str(text)]
    assert [text[start:stop] for start, stop in spans] == words


def test_every_way_to_cut_texts_keeps_all_of_them() -> None:
    from tokenizers import Tokenizer

    document = json.loads((DEMO / "tokenizer.json").read_bytes())
    text = "It's  \t x\u0301\u00e9 1234567 HTTPServer(a,b)\r\n\n\u4e2d\u6587\u3053 \ud55c\uad6d \U0001f680 </s>"
    for name in CUTS:
        merges = [" ".join(each) if isinstance(each, list) else each for each in document["model"]["merges"]]
        tokens = sorted(document["model"]["vocab"], key=document["model"]["vocab"].get)
        found = Tokenizer.from_str(Vocabulary(keys_of("gpt2", tokens, merges=merges, pre=name), "m").document())
        assert found.decode(found.encode(text, add_special_tokens=False).ids) == text, name


def test_merges_of_characters_fall_back_to_bytes() -> None:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    tokens += ["\u2581", "a", "b", "\n", "\n\n", "\u2581a"]
    types = [3, 3, 3, 2, *[6] * 256, 1, 1, 1, 1, 1, 1]
    keys = keys_of("gemma4", tokens, types, merges=["\u2581 a", "\n \n"], bos_token_id=2, eos_token_id=1)
    assert ids(keys, " a\n\n\u00e9") == [265, 264, 4 + 0xC3, 4 + 0xA9]
    vocabulary = Vocabulary(keys, "m")
    assert vocabulary.add_bos and vocabulary.bos == 2 and vocabulary.ends == [1]


PIECES = ["<s>", "<pad>", "</s>", "<unk>", "\u2581a", "b", "\u2581", "ab", "\u2581ab"]


def unigram(**more: Any) -> dict[str, Any]:
    scores = np.array([0, 0, 0, 0, -2, -3, -4, -3.5, -9], np.float32)
    named = {"bos_token_id": 0, "eos_token_id": 2, "unknown_token_id": 3, "scores": scores, **more}
    return keys_of("t5", PIECES, [3, 3, 3, 2, 1, 1, 1, 1, 1], **named)


def test_a_unigram_vocabulary_takes_the_likeliest_pieces() -> None:
    keys = unigram(remove_extra_whitespaces=True, add_bos_token=True)
    assert ids(keys, "  ab   b ") == [4, 5, 6, 5]
    assert ids(keys, "a", around=True) == [0, 4, 2] and ids(keys, "") == [] and ids(keys, "  ") == []
    assert ids(keys, "a\u4e2d\u6587") == [4, 3]
    assert ids(unigram(), " b") == [6, 6, 5] and ids(unigram(), "a", around=True) == [4, 2]
    assert ids(unigram(add_space_prefix=False), "ab") == [7]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"precompiled_charsmap": np.zeros(3, np.uint8)}, "a table of 0 bytes in 3"),
        ({"precompiled_charsmap": np.full(40, 255, np.uint8)}, "a table of 4294967295 bytes in 40"),
        ({"precompiled_charsmap": "text"}, "a list of bytes expected"),
        ({"scores": np.full(9, np.nan, np.float32)}, "a score that is no number"),
        ({"remove_extra_whitespaces": 1}, "true or false expected"),
        ({"unknown_token_id": 50}, "token ids are 0 to 8"),
        ({"token_type": np.full(9, 3, np.int32)}, "no usual token"),
    ],
)
def test_broken_unigram_vocabularies_are_refused(more: dict[str, Any], message: str) -> None:
    keys = unigram() | {f"tokenizer.ggml.{key}": value for key, value in more.items()}
    with pytest.raises(ModelError, match=message):
        Vocabulary(keys, "m").document()


def test_a_wordpiece_vocabulary_takes_the_longest_token() -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581un", "able", "\u2581a", "ble", "\u2581,", "\u2581\u4e2d"]
    named = {"unknown_token_id": 1, "cls_token_id": 2, "seperator_token_id": 3}
    keys = keys_of("bert", tokens, [3, 3, 3, 3, 1, 1, 1, 1, 1, 1], **named)
    assert ids(keys, "UNABLE, \u00e0ble \u4e2d\u4e2d xyz", around=True) == [2, 4, 5, 8, 6, 7, 9, 9, 1, 3]
    cased = keys | {"tokenizer.ggml.normalizer.lowercase": False}
    assert ids(cased, "UNABLE a") == [1, 6]
    twice = keys_of("bert", [*tokens, "\u2581un"], None, **named)
    with pytest.raises(ModelError, match="tokens 4 and 10 are both 'un'"):
        Vocabulary(twice, "m").document()


def test_what_ends_an_answer_is_known_by_its_text() -> None:
    tokens = ["a", "<|im_end|>", "<|end|>", "<|call|>", "<|return|>", "</s>"]
    keys = keys_of("gpt2", tokens, [1, 3, 3, 3, 3, 1], merges=[], pre="gpt-2")
    assert Vocabulary(keys, "m").ends == [1, 3, 4]
    assert Vocabulary(keys | {"tokenizer.ggml.eos_token_id": 0}, "m").ends == [0, 1, 3, 4]


@pytest.mark.parametrize(("model", "pre"), [("rwkv", "default"), ("plamo2", "default"), ("gpt2", "whitespace")])
def test_what_is_not_known_is_refused_by_name(model: str, pre: str) -> None:
    name = model if model != "gpt2" else pre
    with pytest.raises(UnsupportedError, match=f"'{name}'"):
        Vocabulary(keys_of(model, ["a"], merges=[], pre=pre), "m").document()
    with pytest.raises(GGQError, match="merges: missing|is not supported|is not known"):
        Vocabulary(keys_of(model, ["a"], pre=pre), "m").document()
