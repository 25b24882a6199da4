"""The tokenizer of a model file, set up to begin prompts as the model expects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from ggq.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"


class Asset(Protocol):
    """What is asked of an asset here."""

    def read(self) -> bytes:
        """Its bytes."""
        ...


def load_tokenizer(
    assets: Mapping[str, Asset], metadata: Mapping[str, object], path: str | os.PathLike[str] | None = None
) -> Tokenizer:
    """The tokenizer kept in a file.

    Args:
        assets: The file's assets; tokenizer.json is read.
        metadata: The file's metadata; with "tokenizer.add_bos" it decides whether an encoded text begins with
            "tokenizer.bos_id", else tokenizer.json itself decides.
        path: The file, for the messages.

    Returns:
        A `tokenizers.Tokenizer`; `encode(text).ids` are the ids of a prompt.

    Raises:
        ModelError: There is no tokenizer.json, it cannot be parsed, or the first token is none of its tokens.
    """
    if TOKENIZER not in assets:
        raise ModelError(
            "the file holds no tokenizer",
            path=path,
            where=TOKENIZER,
            fix="convert the model again with its tokenizer.json, or give token ids from Python",
        )
    tokenizer = parse(assets[TOKENIZER].read(), path)
    set_up(tokenizer, metadata, path)
    return tokenizer


def set_up(tokenizer: Tokenizer, metadata: Mapping[str, object], path: str | os.PathLike[str] | None) -> None:
    """Have it cut and fill nothing, and begin texts as the metadata says."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    add_bos = metadata.get("tokenizer.add_bos")
    if add_bos is not None:
        begin_with(tokenizer, metadata.get("tokenizer.bos_id") if add_bos is True else None, add_bos is True, path)


def parse(data: bytes, path: str | os.PathLike[str] | None) -> Tokenizer:
    """The tokenizer in these bytes."""
    from tokenizers import Tokenizer

    from ggq.text.trial import try_tokenizer

    try_tokenizer(data, path)  # first: a panic while it is parsed writes to standard error
    try:
        return Tokenizer.from_buffer(data)
    except BaseException as problem:
        # A panic of the Rust library is no Exception; anything else that is none goes on.
        if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":
            raise
        raise ModelError(f"not a tokenizer: {str(problem)[:200]}", path=path, where=TOKENIZER) from None


def begin_with(tokenizer: Tokenizer, token_id: object, wanted: bool, path: str | os.PathLike[str] | None) -> None:
    """Make encoded texts begin with a token, or with none."""
    from tokenizers.processors import TemplateProcessing

    if not wanted:
        tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
        return
    token = tokenizer.id_to_token(token_id) if isinstance(token_id, int) and 0 <= token_id < 1 << 32 else None
    if token is None:
        raise ModelError(f"token {token_id!r} is not in the tokenizer", path=path, where="tokenizer.bos_id")
    # The template's language gives a meaning to "$" and ":", so the token goes by a name of our own.
    names = {"id": "begin", "ids": [token_id], "tokens": [token]}
    tokenizer.post_processor = TemplateProcessing(single="begin $A", pair="begin $A $B", special_tokens=[names])
