"""Checking a checkpoint's tokenizer, and finding the tokens that begin and end its texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggq.convert.source.assets import GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG
from ggq.convert.source.checkpoint import CONFIG
from ggq.convert.source.folder import Folder
from ggq.convert.source.json_input import load_object
from ggq.errors import ConvertError, FormatError, UnsupportedError
from ggq.models.fields import shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KINDS = ("BPE", "Unigram", "WordPiece", "WordLevel")
"""Kinds of tokenizers that can be run."""

SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json")
"""Older forms of a tokenizer, which transformers turns into tokenizer.json."""


@dataclass(frozen=True)
class Tokens:
    """Tokens that mean something to the engine.

    Args:
        bos: Id of the token that begins a text, or None.
        eos: Ids of the tokens that end one; empty when none is known.
        add_bos: Whether a prompt begins with `bos`; None when the tokenizer adds something else, as it alone knows.
    """

    bos: int | None
    eos: tuple[int, ...]
    add_bos: bool | None


def read_tokens(folder: Folder, assets: Mapping[str, bytes], vocabulary: int) -> Tokens:
    """Check the tokenizer against the model and find its special tokens.

    Args:
        folder: The checkpoint's, for the messages.
        assets: The checkpoint's files by name.
        vocabulary: Rows of the embedding.

    Raises:
        ConvertError: There is no tokenizer.json, or it has tokens that the model does not have.
        FormatError: A file does not parse, or holds a value of the wrong type.
        UnsupportedError: A kind of tokenizer that cannot be run.
    """
    tokenizer = _load(folder, assets, vocabulary)
    configs = {
        name: load_object(assets[name], folder.path / name) if name in assets else {}
        for name in (GENERATION_CONFIG, CONFIG, TOKENIZER_CONFIG)
    }
    settings, path = configs[TOKENIZER_CONFIG], folder.path / TOKENIZER_CONFIG
    named = {key: _named(settings, f"{key}_token", tokenizer, path) for key in ("bos", "eos")}
    listed: dict[str, list[int]] = {
        key: [
            token
            for name in (GENERATION_CONFIG, CONFIG)
            for token in _ids(configs[name], f"{key}_token_id", vocabulary, folder.path / name)
        ]
        for key in ("bos", "eos")
    }
    eos = dict.fromkeys([*listed["eos"], *([] if named["eos"] is None else [named["eos"]])])
    bos = named["bos"] if named["bos"] is not None else next(iter(listed["bos"]), None)
    added = _added_in_front(tokenizer)
    if added and len(added) == 1 and (bos is None or added[0] in listed["bos"]):
        bos = added[0]
    wanted = settings.get("add_bos_token")
    if isinstance(wanted, bool) and bos is not None:  # as in transformers, it overrules tokenizer.json
        add_bos: bool | None = wanted
    else:
        add_bos = {(): False, (bos,): True}.get(added) if added is not None else None
    return Tokens(bos, tuple(eos), add_bos)


def _load(folder: Folder, assets: Mapping[str, bytes], vocabulary: int) -> Tokenizer:
    """The tokenizer, parsed and compared with the size of the embedding."""
    path = folder.path / TOKENIZER
    if TOKENIZER not in assets:
        older = next((name for name in SENTENCEPIECE if name in folder), None)
        raise ConvertError(
            f"missing{f'; there is only {older}' if older else ''}",
            path=path,
            fix="make it with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        )
    described = load_object(assets[TOKENIZER], path)
    model = described.get("model")
    if not isinstance(model, dict):
        raise FormatError(f"{shown(model)} found, an object expected", path=path, where="model")
    kind = model.get("type", "BPE" if "merges" in model else None)  # files of tokenizers before 0.8 leave it out
    if kind not in KINDS:
        raise UnsupportedError(
            f"tokenizer {shown(kind)} is not supported; supported: {', '.join(KINDS)}", path=path, where="model.type"
        )
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(assets[TOKENIZER])
        tokenizer.no_truncation()
        tokenizer.no_padding()
        largest = _largest_id(tokenizer, model["vocab"], described.get("added_tokens") or [])
    except BaseException as problem:  # a panic of the Rust library is no Exception
        if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":
            raise
        raise FormatError(f"the tokenizers library refuses it: {shown(str(problem))}", path=path) from None
    if largest >= vocabulary:
        raise ConvertError(
            f"token {largest} is past the end of the embedding, which has {vocabulary} rows",
            path=path,
            fix="the tokenizer belongs to another model, or tokens were added without resizing the embedding",
        )
    return tokenizer


def _largest_id(tokenizer: Tokenizer, vocabulary: Any, added: list[Any]) -> int:
    """The largest id of any token, -1 where there is none; `vocabulary` and `added` are what the tokenizer was made of.
    (Its own list of all tokens takes a while to make.)"""
    ids = [len(vocabulary) - 1] if isinstance(vocabulary, list) else [-1, *vocabulary.values()]
    named = (tokenizer.token_to_id(token["content"]) for token in added)
    return max([*ids, *(token for token in named if token is not None)])


def _added_in_front(tokenizer: Tokenizer) -> tuple[int, ...] | None:
    """The ids that the tokenizer puts before a text; None when it adds anything behind it, or fails."""
    try:
        whole, plain = (tokenizer.encode("a", add_special_tokens=add).ids for add in (True, False))
    except BaseException as problem:
        if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":
            raise
        return None
    count = len(whole) - len(plain)
    return tuple(whole[:count]) if count >= 0 and whole[count:] == plain else None


def _named(settings: Mapping[str, Any], key: str, tokenizer: Tokenizer, path: Path) -> int | None:
    """The id of the token that tokenizer_config.json names as text, or as an object with "content"."""
    value = settings.get(key)
    text = value.get("content") if isinstance(value, dict) else value
    if text is not None and not isinstance(text, str):
        raise FormatError(f"{shown(value)} found, a token's text expected", path=path, where=key)
    found: int | None = None if text is None else tokenizer.token_to_id(text)
    return found


def _ids(config: Mapping[str, Any], key: str, vocabulary: int, path: Path) -> list[int]:
    """Token ids under a key: none, one, or a list."""
    value = config.get(key)
    items = value if isinstance(value, list) else [] if value is None else [value]
    for item in items:
        if type(item) is not int:
            raise FormatError(f"{shown(item)} found, a token's id expected", path=path, where=key)
        if not 0 <= item < vocabulary:
            raise ConvertError(
                f"token {shown(item)} found, the vocabulary has 0 to {vocabulary - 1}", path=path, where=key
            )
    return items
