"""A tokenizer for short texts, made of the part of a vocabulary that they can need.

The tokenizers library takes 0.3 s for a vocabulary of 128,000 tokens, as much as all else that a process does before
its first token. Byte-pair encoding of a word uses no tokens but those that are part of the word: a tokenizer of these
alone, made by the same library with the same rules, gives the same ids. Where that is not certain there is no quick
tokenizer, and the library reads the whole file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from ggq.text.quick.kept import find, keep
from ggq.text.quick.vocabulary import Added, Vocabulary, make_vocabulary
from ggq.text.trial import try_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LEAST_BYTES = 1 << 20
"""Smaller files are read whole: it takes a few milliseconds."""
MOST_CHARACTERS = 4000
"""Characters that are encoded this way, all texts together; whoever encodes more needs the whole soon anyway."""
GROWTH = 4
"""Characters that normalizing may make of one."""


class Document(Protocol):
    """What is asked of a tokenizer.json here."""

    @property
    def identity(self) -> bytes:
        """32 bytes that no other document has, known without its bytes."""
        ...

    def read(self) -> bytes:
        """Its bytes."""
        ...


class QuickTokenizer:
    """Encodes and decodes as the whole tokenizer does, or not at all.

    Args:
        vocabulary: Of the tokenizer.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._added = {token.id: token for token in vocabulary.added}
        self._left = MOST_CHARACTERS

    def encoder(self, text: str, first: object, prepare: Callable[[Tokenizer], None]) -> Tokenizer | None:
        """A tokenizer that has what a text needs; None where only the whole one will do.

        Args:
            text: What it shall encode.
            first: The token id that texts may have to begin with, if any.
            prepare: Sets it up.
        """
        self._left -= len(text)
        if self._left < 0 or any(self._occurs(token, text) for token in self._vocabulary.added if token.normalized):
            return None
        inside = [token for token in self._vocabulary.added if not token.normalized and token.content in text]
        words = self._words(text, inside)
        if sum(map(len, words)) > GROWTH * MOST_CHARACTERS:
            return None
        places = self._vocabulary.within(words)
        merges = self._vocabulary.merges(places)
        tokens = {self._vocabulary.token(place): int(self._vocabulary.ids[place]) for place in places.tolist()}
        chosen = {token.id: token for token in inside}
        for token in [*inside, *([self._added[first]] if isinstance(first, int) and first in self._added else [])]:
            if self._vocabulary.place(token.id) is None and any(token.content in word for word in words):
                return None  # it would be a token of a word too
            chosen[token.id], tokens[token.content] = token, token.id
        if isinstance(first, int) and (place := self._vocabulary.place(first)) is not None:
            tokens[self._vocabulary.token(place)] = first
        tokenizer = self._with(tokens, merges, [chosen[number] for number in sorted(chosen)])
        prepare(tokenizer)
        return tokenizer

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out, as the library puts it together."""
        tokens = [token for number in ids if (token := self._text_of(number)) is not None]
        decoder = self._empty.decoder
        return " ".join(tokens) if decoder is None else str(decoder.decode(tokens))

    @property
    def special_texts(self) -> dict[int, str]:
        """The texts of special tokens, which decode to nothing, by id."""
        return {token.id: token.content for token in self._vocabulary.added if token.special}

    def _text_of(self, number: int) -> str | None:
        """A token's text; None for a special one, and for an id that is none."""
        token = self._added.get(number)
        if token is not None:
            return None if token.special else token.content
        place = self._vocabulary.place(number)
        return None if place is None else self._vocabulary.token(place)

    def _occurs(self, token: Added, text: str) -> bool:
        """Whether a token that is looked for in the normalized text may be there."""
        normal = self._normal(text)
        return token.content in text or token.content in normal or self._normal(token.content) in normal

    def _normal(self, text: str) -> str:
        normalizer = self._empty.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def _words(self, text: str, inside: Sequence[Added]) -> set[str]:
        """The pieces that are encoded one by one; perhaps more than these.

        Args:
            text: The text.
            inside: The added tokens in it. The longest of those that begin at a place is taken, from left to right.
        """
        longest = sorted((token.content for token in inside), key=len, reverse=True)
        pieces = re.split("|".join(map(re.escape, longest)), text) if longest else [text]
        for token in inside:  # one that takes white space leaves less of its neighbours
            pieces += [piece.lstrip() for piece in pieces] if token.rstrip else []
            pieces += [piece.rstrip() for piece in pieces] if token.lstrip else []
        cut, words = self._empty.pre_tokenizer, set[str]()
        for piece in map(self._normal, dict.fromkeys(pieces)):
            words.update([piece] if cut is None else (word for word, _ in cut.pre_tokenize_str(piece)))
        return words

    @cached_property
    def _empty(self) -> Tokenizer:
        """The rules without tokens."""
        return self._with({}, [], [])

    def _with(self, tokens: dict[str, int], merges: Sequence[tuple[str, str]], added: Sequence[Added]) -> Tokenizer:
        from tokenizers import Tokenizer

        settings = self._vocabulary.settings
        model = {**settings["model"], "vocab": tokens, "merges": merges}
        listed = [{**asdict(token), "single_word": False} for token in added]
        return Tokenizer.from_str(json.dumps({**settings, "model": model, "added_tokens": listed}))


def read(document: Document, path: str | os.PathLike[str] | None = None) -> QuickTokenizer | None:
    """The quick tokenizer of a tokenizer.json; None for a small one, and for one that it might differ from.

    Args:
        document: The file.
        path: The model's file, for messages.

    Raises:
        ModelError: It was never tried before, and takes too much time or memory.
    """
    vocabulary = find(document.identity)
    if vocabulary is None:
        data = document.read()
        vocabulary = make_vocabulary(data) if len(data) >= LEAST_BYTES else None
        if vocabulary is None:
            return None
        try_tokenizer(data, path)
        keep(document.identity, vocabulary)
    return QuickTokenizer(vocabulary)
