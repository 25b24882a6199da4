"""Pieces of tokenizer.json, as the tokenizers library writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SPACE = "\u2581"
"""What stands for a space in the tokens of SentencePiece."""

Step = dict[str, Any]


def write_document(model: Step, *, added: Iterable[tuple[int, str, bool]] = (), **parts: Any) -> bytes:
    """A tokenizer.json.

    Args:
        model: What makes tokens of words.
        added: Id, text and whether it decodes to nothing, of tokens that are found before a text is cut into words.
        parts: normalizer, pre_tokenizer, post_processor and decoder; None for those that are left out.
    """
    whole = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    listed = [_added(*each) for each in sorted(added)]
    return json.dumps({"version": "1.0", **whole, **parts, "added_tokens": listed, "model": model}).encode()


def _added(number: int, text: str, special: bool) -> Step:
    marks = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, **marks, "special": special}


def bpe(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str] | str], **settings: Any) -> Step:
    """A model that merges pairs, or pairs joined by a space; `settings` differ from what is usual."""
    usual = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return {**usual, **settings, "vocab": vocabulary, "merges": merges}


def unigram(pieces: Sequence[tuple[str, float]], unknown: int, byte_fallback: bool) -> Step:
    """A model that takes the most likely pieces."""
    return {"type": "Unigram", "unk_id": unknown, "vocab": pieces, "byte_fallback": byte_fallback}


def sequence(name: str, steps: Sequence[Step]) -> Step | None:
    """Steps one after the other; None for none. `name` is "normalizers", "pretokenizers" or "decoders"."""
    return {"type": "Sequence", name: list(steps)} if steps else None


def replace(pattern: str, content: str, kind: str = "String") -> Step:
    """A step that puts one text in place of another; of a pattern where `kind` is "Regex"."""
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def split(pattern: str, behavior: str = "Isolated", kind: str = "Regex") -> Step:
    """A step that cuts texts."""
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": False}


def metaspace(scheme: str, *, cut: bool = True) -> Step:
    """A step that marks spaces, and puts one before a text."""
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": cut}


def byte_level(*, prefix: bool = False, regex: bool = True, trim: bool = True) -> Step:
    """A step that writes bytes as letters, or reads them back."""
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim, "use_regex": regex}


def strip_left() -> Step:
    """A step that takes off a space before a text."""
    return {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def template(single: Sequence[str], pair: Sequence[tuple[str, int]], tokens: Mapping[str, tuple[int, str]]) -> Step:
    """What is put around texts.

    Args:
        single: Around one: names of tokens, and "A" for the text.
        pair: Around two: the same with the type of each, "B" for the second text.
        tokens: Ids and texts of the tokens by name.
    """

    def item(name: str, kind: int) -> Step:
        place = {"id": name, "type_id": kind}
        return {"Sequence": place} if name in ("A", "B") else {"SpecialToken": place}

    return {
        "type": "TemplateProcessing",
        "single": [item(name, 0) for name in single],
        "pair": [item(name, kind) for name, kind in pair],
        "special_tokens": {
            name: {"id": name, "ids": [number], "tokens": [text]} for name, (number, text) in tokens.items()
        },
    }
