"""Vocabularies of BERT: the longest token that begins a word, then the longest of what follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggq.text.tokenizer_json import SPACE

if TYPE_CHECKING:
    from ggq.gguf.tokens.vocabulary import Vocabulary

FOLLOWS = "##"
LONGEST = 100
"""Characters of a word; a longer one is unknown, as BERT has it."""


def parts(tokens: Vocabulary) -> dict[str, Any]:
    """The normalizer, the pre-tokenizer, the model and the decoder.

    Raises:
        ModelError: Two tokens are one in BERT's writing, or the file names no unknown token.
    """
    unknown = tokens.token("unknown")
    if unknown is None:
        raise tokens.refuse("missing", "tokenizer.ggml.unknown_token_id")
    vocabulary: dict[str, int] = {}
    for number, (token, kind) in enumerate(zip(tokens.tokens, tokens.types.tolist(), strict=True)):
        text = token if kind != 1 else token[1:] if token.startswith(SPACE) else FOLLOWS + token
        if vocabulary.setdefault(text, number) != number:
            problem = f"tokens {vocabulary[text]} and {number} are both {text!r:.40}"
            raise tokens.refuse(problem, "tokenizer.ggml.tokens")
    lower = tokens.flag("normalizer.lowercase", True)
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": tokens.flag("normalizer.strip_accents", lower),
            "lowercase": lower,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": FOLLOWS, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": tokens.tokens[unknown],
            "continuing_subword_prefix": FOLLOWS,
            "max_input_chars_per_word": LONGEST,
            "vocab": vocabulary,
        },
    }
