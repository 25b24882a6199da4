"""Vocabularies of SentencePiece's unigram model (T5, XLM-R): the likeliest pieces of a text."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import numpy as np

from ggq.text.tokenizer_json import SPACE, metaspace, replace, sequence, unigram

if TYPE_CHECKING:
    from ggq.gguf.tokens.vocabulary import Vocabulary


def parts(tokens: Vocabulary) -> dict[str, Any]:
    """The normalizer, the model and the decoder.

    Raises:
        ModelError: The file names no unknown token, or has no usual one.
    """
    unknown = tokens.token("unknown")
    if unknown is None:
        raise tokens.refuse("missing", "tokenizer.ggml.unknown_token_id")
    usual = tokens.types == 1
    if not usual.any():
        raise tokens.refuse("no usual token", "tokenizer.ggml.token_type")
    scores = tokens.scores()
    # The library's unknown characters are as likely as its least likely piece, those of SentencePiece as its usual one.
    scores[~usual] = np.maximum(scores[~usual], scores[usual].min())
    pieces = [(token, float(score)) for token, score in zip(tokens.tokens, scores, strict=True)]
    return {
        "normalizer": sequence("normalizers", _normal(tokens)),
        "pre_tokenizer": None,
        "decoder": metaspace("always"),
        "model": unigram(pieces, unknown, byte_fallback=False),
    }


def _normal(tokens: Vocabulary) -> list[dict[str, Any]]:
    """Characters as the file's table has them, then spaces: one before each word where they are merged."""
    charsmap = tokens.charsmap()
    table = [{"type": "Precompiled", "precompiled_charsmap": b64encode(charsmap).decode()}] if charsmap else []
    if tokens.flag("remove_extra_whitespaces", False):
        spaces = [replace(r"\A +| +\z", "", "Regex"), replace(" +", SPACE, "Regex")]
        return [*table, *spaces, {"type": "Prepend", "prepend": SPACE}]
    prefix = [replace(r"\A(?= *[^ ])", SPACE, "Regex")] if tokens.flag("add_space_prefix", True) else []
    return [*table, *prefix, replace(" ", SPACE)]
