"""A tokenizer for short texts, made of the part of a vocabulary that they can need.

The tokenizers library takes 0.3 s for a vocabulary of 128,000 tokens, a third of what a process needs to its first
token. Byte-pair encoding of a word uses no tokens but those that are part of the word: a tokenizer of these alone, made
by the same library from the same file, gives the same ids. Where that is not certain there is no quick tokenizer, and
the library reads the whole file.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LEAST_BYTES = 1 << 20
"""Smaller files are read whole: it takes a few milliseconds."""
MOST_CHARACTERS = 4000
"""Characters that are encoded this way, all texts together; whoever encodes more needs the whole soon anyway."""
LONGEST = 64
"""Words of more characters have too many parts."""
BYTES = frozenset(f"<0x{i:02X}>" for i in range(256))
"""Tokens that stand for bytes where a character is unknown."""


class QuickTokenizer:
    """Encodes and decodes as the whole tokenizer does, or not at all.

    Args:
        document: tokenizer.json, of a kind that `read` has looked at.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        model = document["model"]
        self._vocabulary: dict[str, int] = model["vocab"]
        self._merges: list[str] | list[list[str]] = model["merges"]
        self._added = {item["content"]: item["id"] for item in document["added_tokens"]}
        self._special = {item["content"] for item in document["added_tokens"] if item["special"]}
        self._tokens = dict(zip(self._vocabulary.values(), self._vocabulary.keys(), strict=True))
        self._tokens |= {number: token for token, number in self._added.items()}
        self._always = (BYTES & self._vocabulary.keys()) | {model.get("unk_token")} - {None}
        self._document = {**document, "model": {**model, "vocab": {}, "merges": []}}
        self._left = MOST_CHARACTERS
        self._empty = self._with((), [])

    def encoder(self, text: str, first: object, prepare: Callable[[Tokenizer], None]) -> Tokenizer | None:
        """A tokenizer that has what a text needs; None where only the whole one will do.

        Args:
            text: What it shall encode.
            first: The token id that texts may have to begin with, if any.
            prepare: Sets it up.
        """
        self._left -= len(text)
        words = self._words(text) if self._left >= 0 else None
        if words is None:
            return None
        found: set[str] = set(self._always)
        for word in words:
            if len(word) > LONGEST:
                return None
            ends = range(1, len(word) + 1)
            found.update(part for end in ends for start in range(end) if (part := word[start:end]) in self._vocabulary)
        merges = self._merges_of(found)
        token = self._tokens.get(first) if isinstance(first, int) else None
        tokenizer = self._with({*found, *([] if token is None else [token])}, merges)
        prepare(tokenizer)
        return tokenizer

    def _merges_of(self, tokens: set[str]) -> list[str] | list[list[str]]:
        """The merges that make one of some tokens of two others of them, in order, as the file writes them."""
        if not self._merges or isinstance(self._merges[0], str):
            parts = ((token[:cut], token[cut:]) for token in tokens for cut in range(1, len(token)))
            wanted = {f"{left} {right}" for left, right in parts if left in tokens and right in tokens}
            return [merge for merge in self._merges if merge in wanted]
        return [
            merge for merge in self._merges if merge[0] in tokens and merge[1] in tokens and "".join(merge) in tokens
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out, as the library puts it together."""
        known = (self._tokens.get(number) for number in ids)
        tokens = [token for token in known if token is not None and token not in self._special]
        decoder = self._empty.decoder
        return " ".join(tokens) if decoder is None else str(decoder.decode(tokens))

    @property
    def special_texts(self) -> dict[int, str]:
        """The texts of special tokens, which decode to nothing, by id."""
        return {number: token for token, number in self._added.items() if token in self._special}

    def _words(self, text: str) -> set[str] | None:
        """The pieces that are encoded one by one; None where added tokens are among them."""
        whole = self._empty
        normal = text if whole.normalizer is None else whole.normalizer.normalize_str(text)
        for token in self._added:
            plain = token if whole.normalizer is None else whole.normalizer.normalize_str(token)
            if token in text or token in normal or plain in normal:
                return None
        if whole.pre_tokenizer is None:
            return {normal}
        return {word for word, _ in whole.pre_tokenizer.pre_tokenize_str(normal)}

    def _with(self, tokens: Iterable[str], merges: Sequence[str | list[str]]) -> Tokenizer:
        from tokenizers import Tokenizer

        vocabulary = {token: self._vocabulary[token] for token in tokens if token in self._vocabulary} | self._added
        model = {**self._document["model"], "vocab": vocabulary, "merges": merges}
        return Tokenizer.from_str(json.dumps({**self._document, "model": model}))


def read(data: bytes) -> QuickTokenizer | None:
    """The quick tokenizer of a tokenizer.json; None for a small one, and for one that it might differ from."""
    if len(data) < LEAST_BYTES:
        return None
    enabled = gc.isenabled()
    gc.disable()  # the collector would look through all the lists again and again
    try:
        document = json.loads(data)
        return QuickTokenizer(document) if _is_plain(document) else None
    except Exception:  # whatever is wrong with it, the library says it better
        return None
    finally:
        if enabled:
            gc.enable()


def _is_plain(document: dict[str, Any]) -> bool:
    model, added = document["model"], document["added_tokens"]
    affixes = [model.get("continuing_subword_prefix"), model.get("end_of_word_suffix"), model.get("dropout")]
    vocabulary: dict[str, int] = model["vocab"]
    following = len(vocabulary)
    for item in added:  # an id that the library would change is not ours to guess
        known = vocabulary.get(item["content"])
        if item["id"] != (following if known is None else known) or item["single_word"] or not item["content"]:
            return False
        following += known is None
    return model["type"] == "BPE" and not any(affixes)
