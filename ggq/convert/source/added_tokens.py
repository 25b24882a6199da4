"""Tokens that a tokenizer's side files declare and tokenizer.json does not, put into it (S-15)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggq.convert.source.assets import ADDED_TOKENS, SPECIAL_TOKENS, TOKENIZER_CONFIG
from ggq.errors import ConvertError, FormatError
from ggq.models.fields import shown
from ggq.text.special_tokens import named_values, reads_side_files, token_text

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def add_tokens(
    tokenizer: Tokenizer, files: Mapping[str, Mapping[str, Any]], vocabulary: int, folder: Path
) -> tuple[list[str], list[str]]:
    """Add what is declared beside tokenizer.json, in the order and with the marks that transformers 5 takes.

    Args:
        tokenizer: It is changed.
        files: The parsed side files by name, {} for a missing one.
        vocabulary: Rows of the embedding: a token behind the last one is not added, as no text can have it.
        folder: Where they lie, for the messages.

    Returns:
        The texts of tokens that were added or changed, and those of tokens that were not.

    Raises:
        FormatError: A declaration is no token.
        ConvertError: A token would get another id than it is declared with.
    """
    settings, special = files[TOKENIZER_CONFIG], files[SPECIAL_TOKENS]
    named = {name: value for name, value in named_values(settings, special).items() if token_text(value)}
    extra = _extra(settings, special, folder)
    declared = _declared(settings, files[ADDED_TOKENS], {str(token_text(value)) for value in named.values()}, folder)
    present = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    wanted = [(number, token) for number, token in sorted(declared.items()) if not _same(token, present)]
    known = present.keys() | {token.content for _, token in wanted}
    for value in (*named.values(), *extra):
        text = str(token_text(value))
        if text not in known:
            flags = value if isinstance(value, Mapping) else {}
            wanted.append((-1, _token({**flags, "content": text, "special": True}, folder / TOKENIZER_CONFIG, text)))
            known = known | {text}
    added, past = [], []
    for number, token in wanted:
        if token.content in {str(token_text(value)) for value in named.values()}:
            token.special = True
        at = tokenizer.token_to_id(token.content)
        next_id = tokenizer.get_vocab_size(with_added_tokens=True) if at is None else at
        if next_id >= vocabulary:
            past.append(token.content)
            continue
        if at is None and number not in (-1, next_id):
            raise ConvertError(
                f"token {shown(token.content)} has the id {number}, behind tokenizer.json's it would be {next_id}",
                path=folder / (TOKENIZER_CONFIG if "added_tokens_decoder" in settings else ADDED_TOKENS),
                fix="make tokenizer.json anew with transformers: AutoTokenizer...save_pretrained",
            )
        tokenizer.add_tokens([token])
        added.append(token.content)
    return added, past


def _extra(settings: Mapping[str, Any], special: Mapping[str, Any], folder: Path) -> list[Any]:
    """Tokens without a name, of a list in either file."""
    found: list[Any] = []
    files = [(settings, TOKENIZER_CONFIG), (special, SPECIAL_TOKENS)][: 1 + reads_side_files(settings)]
    for file, name in files:
        for key in ("extra_special_tokens", "additional_special_tokens"):
            listed = file.get(key)
            for value in listed if isinstance(listed, list) else ():
                if token_text(value) is None:
                    raise FormatError(f"{shown(value)} found, a token expected", path=folder / name, where=key)
                found.append(value)
    return found


def _declared(
    settings: Mapping[str, Any], added: Mapping[str, Any], special: set[str], folder: Path
) -> dict[int, AddedToken]:
    """Tokens by the ids that they are declared with."""
    listed = settings.get("added_tokens_decoder")
    if not reads_side_files(settings):
        path = folder / TOKENIZER_CONFIG
        if not isinstance(listed, dict):
            raise FormatError(f"{shown(listed)} found, an object expected", path=path, where="added_tokens_decoder")
        return {_id(number, path): _token(value, path, number) for number, value in listed.items()}
    path = folder / ADDED_TOKENS
    found = {}
    for text, number in added.items():
        flags = {"content": text, "special": text in special, "normalized": text not in special}
        found[_id(number, path)] = _token(flags, path, text)
    return found


def _id(value: object, path: Path) -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value
    if type(number) is not int or not 0 <= number < 1 << 31:
        raise FormatError(f"{shown(value)} found, a token's id expected", path=path)
    return number


def _token(value: Any, path: Path, where: str) -> AddedToken:
    from tokenizers import AddedToken

    text = token_text(value) if isinstance(value, Mapping) else None
    if not text:
        raise FormatError(f"{shown(value)} found, an object with a token's content expected", path=path, where=where)
    flags = {name: value[name] for name in FLAGS if isinstance(value.get(name), bool)}
    return AddedToken(text, **flags)


def _same(token: AddedToken, present: Mapping[str, AddedToken]) -> bool:
    other = present.get(token.content)
    return other is not None and all(getattr(token, name) == getattr(other, name) for name in FLAGS)
