"""Checking a checkpoint's tokenizer, and finding the tokens that begin and end its texts."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggq.convert.source.added_tokens import add_tokens
from ggq.convert.source.assets import ADDED_TOKENS, GENERATION_CONFIG, SPECIAL_TOKENS, TOKENIZER, TOKENIZER_CONFIG
from ggq.convert.source.checkpoint import CONFIG
from ggq.convert.source.folder import Folder
from ggq.convert.source.json_input import load_object
from ggq.convert.source.vocabularies.find import make_tokenizer
from ggq.errors import ConvertError, FormatError, UnsupportedError
from ggq.models.fields import shown
from ggq.text.special_tokens import named_tokens, token_text
from ggq.text.trial import try_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KINDS = ("BPE", "Unigram", "WordPiece", "WordLevel")
"""Kinds of tokenizers that can be run."""


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


def read_tokens(folder: Folder, assets: MutableMapping[str, bytes], vocabulary: int, notes: list[str]) -> Tokens:
    """Check the tokenizer against the model and find its special tokens (S-6, S-14 to S-16).

    Args:
        folder: The checkpoint's, for the messages.
        assets: The checkpoint's files by name; tokens that only side files declare are put into tokenizer.json.
        vocabulary: Rows of the embedding.
        notes: What is odd is added here, in words.

    Raises:
        ConvertError: The tokenizer has tokens that the model does not have, or fails on every text.
        FormatError: A file does not parse, or holds a value of the wrong type.
        UnsupportedError: A kind of tokenizer that cannot be run.
    """
    files = {
        name: load_object(assets[name], folder.path / name, infinite=True) if name in assets else {}
        for name in (GENERATION_CONFIG, CONFIG, TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS)
    }
    listed: dict[str, list[int]] = {
        key: [
            token
            for name in (GENERATION_CONFIG, CONFIG)
            for token in _ids(files[name], f"{key}_token_id", vocabulary, folder.path / name, notes)
        ]
        for key in ("bos", "eos")
    }
    if TOKENIZER not in assets:
        made = make_tokenizer(folder, files[TOKENIZER_CONFIG], files[CONFIG])
        if made is not None:
            assets[TOKENIZER] = made.document
            notes.append(f"no {TOKENIZER}: made of {' and '.join(made.files)}")
            if made.kind:
                files[TOKENIZER_CONFIG] = {**files[TOKENIZER_CONFIG], "tokenizer_class": made.kind}
    tokenizer = _load(folder, assets, vocabulary, notes)
    if tokenizer is None:
        return Tokens(next(iter(listed["bos"]), None), tuple(dict.fromkeys(listed["eos"])), None)
    added, past = add_tokens(tokenizer, files, vocabulary, folder.path)
    if added:
        assets[TOKENIZER] = tokenizer.to_str().encode()
        try_tokenizer(assets[TOKENIZER], folder.path)
        notes.append(f"{_some(added)} declared beside {TOKENIZER} only, or otherwise there: put into it")
    if past:
        notes.append(f"{_some(past)} left out: the model has no row for more than {vocabulary} tokens")
    named = {key: _named(files, f"{key}_token", tokenizer, folder.path, vocabulary) for key in ("bos", "eos")}
    bos = next(iter([*named["bos"], *listed["bos"]]), None)
    front = _added_in_front(tokenizer, vocabulary, folder.path / TOKENIZER)
    if front and len(front) == 1 and (bos is None or front[0] in listed["bos"]):
        bos = front[0]
    add_bos = {(): False, (bos,): True}.get(front) if front is not None else None
    return Tokens(bos, tuple(dict.fromkeys([*listed["eos"], *named["eos"]])), add_bos)


def _load(folder: Folder, assets: Mapping[str, bytes], vocabulary: int, notes: list[str]) -> Tokenizer | None:
    """The tokenizer, parsed and compared with the size of the embedding; None where the checkpoint has none."""
    path = folder.path / TOKENIZER
    if TOKENIZER not in assets:
        notes.append(f"no {TOKENIZER}: the file computes logits of token ids, and reads and writes no text")
        return None
    described = load_object(assets[TOKENIZER], path)
    model = described.get("model")
    if not isinstance(model, dict):
        raise FormatError(f"{shown(model)} found, an object expected", path=path, where="model")
    kind = model.get("type", "BPE" if "merges" in model else None)  # files of tokenizers before 0.8 leave it out
    if kind not in KINDS:
        raise UnsupportedError(
            f"tokenizer {shown(kind)} is not supported; supported: {', '.join(KINDS)}", path=path, where="model.type"
        )
    try_tokenizer(assets[TOKENIZER], folder.path)  # first: the library may panic, or never end
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
        added = {token["content"] for token in described.get("added_tokens") or []}
        plain = _largest_id(tokenizer, _without(model["vocab"], added), [])
        if plain >= vocabulary:
            raise ConvertError(
                f"token {plain} is past the end of the embedding, which has {vocabulary} rows",
                path=path,
                fix="the tokenizer belongs to another model",
            )
        notes.append(
            f"added tokens up to {largest} have no row in the embedding of {vocabulary}: no text may have them"
        )
    return tokenizer


def _without(vocabulary: Any, added: set[str]) -> dict[str, int]:
    """The tokens of a model's vocabulary, those left out that are added tokens too."""
    pairs = enumerate(item[0] for item in vocabulary) if isinstance(vocabulary, list) else ()
    numbered = {text: number for number, text in pairs} if isinstance(vocabulary, list) else vocabulary
    return {text: number for text, number in numbered.items() if text not in added}


def _largest_id(tokenizer: Tokenizer, vocabulary: Any, added: list[Any]) -> int:
    """The largest id of any token, -1 where there is none; `vocabulary` and `added` are what the tokenizer was made of.
    (Its own list of all tokens takes a while to make.)"""
    ids = [len(vocabulary) - 1] if isinstance(vocabulary, list) else [-1, *vocabulary.values()]
    named = (tokenizer.token_to_id(token["content"]) for token in added)
    return max([*ids, *(token for token in named if token is not None)])


def _added_in_front(tokenizer: Tokenizer, vocabulary: int, path: Path) -> tuple[int, ...] | None:
    """The ids that the tokenizer puts before a text; None when it adds anything behind it.

    Raises:
        ConvertError: It fails on an ordinary text, or gives every text a token that the model does not have.
    """
    try:
        whole, plain = (tokenizer.encode("a", add_special_tokens=add).ids for add in (True, False))
    except BaseException as problem:
        if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":
            raise
        raise ConvertError(
            f"the tokenizer fails on the text 'a': {shown(str(problem))}", path=path, fix="get another copy of it"
        ) from None
    for token in whole:
        if token >= vocabulary:
            raise ConvertError(
                f"every text gets the token {token}, and the model has 0 to {vocabulary - 1}",
                path=path,
                where="post_processor" if token not in plain else "model",
                fix="the tokenizer belongs to another model, or tokens were added without resizing the embedding",
            )
    count = len(whole) - len(plain)
    return tuple(whole[:count]) if count >= 0 and whole[count:] == plain else None


def _named(
    files: Mapping[str, Mapping[str, Any]], key: str, tokenizer: Tokenizer, folder: Path, vocabulary: int
) -> list[int]:
    """The ids of the tokens that have a name in tokenizer_config.json and special_tokens_map.json; the one that counts
    comes first."""
    texts = [named_tokens(files[TOKENIZER_CONFIG], files[SPECIAL_TOKENS]).get(key)]
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS):
        value = files[name].get(key)
        if value is not None and token_text(value) is None:
            raise FormatError(f"{shown(value)} found, a token's text expected", path=folder / name, where=key)
        texts.append(token_text(value))
    ids = (tokenizer.token_to_id(text) for text in texts if text)
    return list(dict.fromkeys(number for number in ids if number is not None and number < vocabulary))


def _ids(config: Mapping[str, Any], key: str, vocabulary: int, path: Path, notes: list[str]) -> list[int]:
    """Token ids under a key: none, one, or a list; one that the model does not have is left out (S-14)."""
    value = config.get(key)
    items = value if isinstance(value, list) else [] if value is None else [value]
    found = []
    for item in items:
        if type(item) is not int:
            raise FormatError(f"{shown(item)} found, a token's id expected", path=path, where=key)
        if 0 <= item < vocabulary:
            found.append(item)
        elif item != -1:
            notes.append(f"{path.name}: {key} {shown(item)} left out: the vocabulary has 0 to {vocabulary - 1}")
    return found


def _some(tokens: list[str]) -> str:
    """A few tokens for a note."""
    more = f" and {len(tokens) - 3} more" if len(tokens) > 3 else ""
    return f"token{'s' * (len(tokens) > 1)} {', '.join(map(shown, tokens[:3]))}{more}"
