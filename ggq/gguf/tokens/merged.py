"""Vocabularies whose tokens are made by merges: of characters by score, of bytes or of characters by rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ggq.gguf.tokens.cuts import CUTS
from ggq.text.tokenizer_json import SPACE, bpe, replace, sequence, split, strip_left
from ggq.text.tokenizer_json import byte_level as bytes_as_letters

if TYPE_CHECKING:
    from ggq.gguf.tokens.vocabulary import Vocabulary

MERGED = (1, 4, 5)
"""Types of tokens that are made of others: usual, user-defined and unused ones."""


def sentencepiece(tokens: Vocabulary) -> dict[str, Any]:
    """SentencePiece's merges: of the neighbours that make a token, those of the highest score first."""
    scores, vocabulary = tokens.scores(), tokens.vocabulary()
    prefix, unknown = tokens.flag("add_space_prefix", True), tokens.token("unknown")
    before = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    return {
        "normalizer": sequence("normalizers", [*before, replace(" ", SPACE)]),
        "pre_tokenizer": None,
        "decoder": _decoder(prefix),
        "model": bpe(
            vocabulary,
            merges_of(tokens.tokens, scores, tokens.types, vocabulary),
            unk_token=None if unknown is None else tokens.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def byte_level(tokens: Vocabulary) -> dict[str, Any]:
    """Words of bytes that are merged by rank.

    Raises:
        UnsupportedError: A way to cut texts that is not known.
    """
    if tokens.cut not in CUTS:
        raise tokens.unknown_cut()
    cut = CUTS[tokens.cut]
    steps = [split(step) if isinstance(step, str) else step for step in cut.steps]
    return {
        "normalizer": {"type": cut.normal} if cut.normal else None,
        "pre_tokenizer": sequence("pretokenizers", [*steps, bytes_as_letters(regex=False)]),
        "decoder": bytes_as_letters(prefix=True),
        "model": bpe(tokens.vocabulary(), list[tuple[str, str] | str](tokens.merges()), ignore_merges=cut.whole),
    }


def characters(tokens: Vocabulary) -> dict[str, Any]:
    """Characters of a whole text that are merged by rank, a character without a token as its bytes."""
    unknown = tokens.token("unknown")
    return {
        "normalizer": replace(" ", SPACE),
        "pre_tokenizer": split(r"[^\n]+|[\n]+"),
        "decoder": _decoder(prefix=False),
        "model": bpe(
            tokens.vocabulary(),
            [(merge[: (at := merge.find(" ", 1))], merge[at + 1 :]) for merge in tokens.merges()],
            unk_token=None if unknown is None else tokens.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def _decoder(prefix: bool) -> dict[str, Any] | None:
    strip = [strip_left()] if prefix else []
    return sequence("decoders", [replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}, *strip])


def merges_of(
    tokens: Sequence[str], scores: np.ndarray, types: np.ndarray, vocabulary: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Merges that do what SentencePiece does with scores: for each token all pairs of tokens that make it.

    Args:
        tokens: By id.
        scores: float64 (tokens,); the highest is merged first.
        types: int (tokens,); only usual, user-defined and unused tokens are made of others.
        vocabulary: Ids by token.
    """
    found: list[tuple[float, int, str, str]] = []
    for number in np.flatnonzero(np.isin(types, MERGED)).tolist():
        token, score = tokens[number], -float(scores[number])
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((score, number, left, right))
    found.sort(key=lambda each: each[:2])
    return [(left, right) for _, _, left, right in found]
