"""Streaming text: whole characters, nothing lost, nothing past a stop string."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq.errors import UsageError
from ggq.text.detokenize import CONTEXT, LONGEST_HELD, REPLACEMENT, Detokenizer, StopStrings
from tests.kit.support import DEMO

Decode = Callable[[Sequence[int]], str]


@cache
def byte_level() -> tuple[Callable[[str], list[int]], Decode]:
    """The demo's tokenizer: bytes under GPT-2's alphabet."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    return lambda text: tokenizer.encode(text).ids, lambda ids: tokenizer.decode(list(ids))


@cache
def byte_fallback() -> tuple[Callable[[str], list[int]], Decode]:
    """A tokenizer of SentencePiece's kind: letters, words after a space, and bytes for all else."""
    from tokenizers import Tokenizer

    words = ["<unk>", "<s>", "▁", "a", "b", "▁a", "▁b", "ab", "▁ab"]
    vocabulary = {word: index for index, word in enumerate([*words, *(f"<0x{byte:02X}>" for byte in range(256))])}
    tokenizer = Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [{"id": 1, "content": "<s>", "special": True, "single_word": False, "lstrip": False,
                                  "rstrip": False, "normalized": False}],
                "normalizer": {"type": "Sequence", "normalizers": [
                    {"type": "Prepend", "prepend": "▁"},
                    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
                "decoder": {"type": "Sequence", "decoders": [
                    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                    {"type": "ByteFallback"}, {"type": "Fuse"},
                    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
                "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "vocab": vocabulary,
                          "merges": [["▁", "a"], ["▁", "b"], ["a", "b"], ["▁a", "b"]]},
            }
        )
    )  # fmt: skip
    return lambda text: tokenizer.encode(text).ids, lambda ids: tokenizer.decode(list(ids))


TOKENIZERS = {"byte-level": byte_level, "byte-fallback": byte_fallback}


def stream(decode: Decode, ids: list[int], prompt: Sequence[int] = ()) -> list[str]:
    detokenizer = Detokenizer(decode, prompt)
    return [detokenizer.push(token) for token in ids] + [detokenizer.flush()]


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet="ab €é🎉漢\n 👩\u200d🚀", max_size=30), split=st.integers(0, 12))
def test_the_pieces_are_whole_characters_and_add_up(kind: str, text: str, split: int) -> None:
    encode, decode = TOKENIZERS[kind]()
    ids = encode(text)
    pieces = stream(decode, ids)
    assert "".join(pieces) == decode(ids) == text
    assert all(REPLACEMENT not in piece for piece in pieces)
    head = decode(ids[:split])
    if REPLACEMENT not in head:  # a prompt that ends between characters, as prompts of text do
        assert head + "".join(stream(decode, ids[split:], ids[:split])) == text


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_tokens_give_every_character_that_they_make_up(kind: str, data: st.DataObject) -> None:
    decode = TOKENIZERS[kind]()[1]
    ids = data.draw(st.lists(st.integers(2, 264), max_size=40))
    text, whole = "".join(stream(decode, ids)), decode(ids)
    if kind == "byte-level" or REPLACEMENT not in whole:
        assert text == whole
    # One wrong byte makes the tokenizer take back a whole run of bytes; characters that were shown stay, none is lost.
    rest = iter(text)
    assert all(character in rest for character in whole if character != REPLACEMENT)


def test_a_character_comes_when_its_last_byte_does() -> None:
    encode, decode = byte_fallback()
    ids = encode("a€b")
    assert stream(decode, ids) == ["a", "", "", "€", "b", ""]


def test_half_a_character_at_the_end_is_given_as_a_replacement() -> None:
    encode, decode = byte_fallback()
    assert "".join(stream(decode, encode("a€")[:-1])) == "a" + 2 * REPLACEMENT
    encode, decode = byte_level()
    assert "".join(stream(decode, encode("a🎉")[:-1])) == "a" + REPLACEMENT


def test_a_leading_space_depends_on_the_prompt() -> None:
    encode, decode = byte_fallback()
    assert stream(decode, encode("ab")) == ["ab", ""]
    assert stream(decode, encode("ab"), encode("b")) == [" ab", ""]
    assert stream(decode, encode("ab"), [1]) == ["ab", ""]


def test_noise_is_not_held_back_for_ever() -> None:
    def decode(ids: Sequence[int]) -> str:
        return REPLACEMENT * len(ids)

    pieces = stream(decode, [0] * 100)
    assert max(map(len, pieces)) <= LONGEST_HELD and "".join(pieces) == REPLACEMENT * 100


def test_the_cost_of_a_token_does_not_grow_with_the_text() -> None:
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return "x" * len(ids)

    stream(decode, [0] * 500, [0] * 500)
    assert longest <= CONTEXT + 1


def stopped(strings: Sequence[str], pieces: Sequence[str]) -> tuple[str, str | None]:
    stops = StopStrings(strings)
    text = "".join(stops.push(piece) for piece in pieces)
    return text + stops.flush(), stops.found


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.text("ab", max_size=5), max_size=8),
)
def test_text_ends_before_the_first_stop_string_however_it_is_cut(strings: list[str], pieces: list[str]) -> None:
    # As pieces come, the stop string that is complete first counts, and of several then the one that begins first.
    whole, text = "".join(pieces), ""
    found = None
    for piece in pieces:
        text += piece
        places = [(text.index(string), string) for string in strings if string in text]
        if places:
            found = min(places)
            break
    assert stopped(strings, pieces) == ((whole, None) if found is None else (whole[: found[0]], found[1]))


def test_what_may_become_a_stop_string_is_held_back() -> None:
    stops = StopStrings(["END"])
    assert [stops.push(piece) for piece in ("abE", "N", "x", "E", "ND", "more")] == ["ab", "", "ENx", "", "", ""]
    assert stops.found == "END" and stops.flush() == ""


@pytest.mark.parametrize("strings", ["END", [""], [1]])
def test_stop_strings_must_be_a_list_of_strings(strings: Sequence[str]) -> None:
    with pytest.raises(UsageError, match="stop is a list of strings, none of them empty"):
        StopStrings(strings)


@pytest.mark.parametrize(
    ("stop", "pieces", "expected"),
    [
        ("<|end|>", [("a", ""), ("", "<|end|>"), ("b", "")], "a"),
        ("b<|end|>", [("ab", ""), ("", "<|end|>"), ("c", "")], "a"),
        ("<|end|>\n", [("a", ""), ("", "<|end|>"), ("\nc", "")], "a"),
        ("<|end|>\n", [("a", ""), ("", "<|end|>"), ("c", "")], "ac"),
        ("|end", [("a", ""), ("", "<|end|>"), ("c", "")], "a"),
        ("<|a|><|b|>", [("x", "<|a|>"), ("", "<|b|>"), ("y", "")], "x"),
        ("xy", [("x", "<|a|>"), ("y", "")], "xy"),
        ("zz", [("x", "<|a|>"), ("y", "")], "xy"),
    ],
)
def test_stop_strings_that_are_or_contain_special_tokens(
    stop: str, pieces: list[tuple[str, str]], expected: str
) -> None:
    """Special tokens are matched and never shown, as transformers' stop_strings do."""
    stops = StopStrings([stop])
    text = "".join(stops.push(piece, hidden) for piece, hidden in pieces)
    assert text + stops.flush() == expected
    assert (stops.found is not None) == (expected not in ("ac", "xy"))
