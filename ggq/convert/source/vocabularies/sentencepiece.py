"""tokenizer.json of a SentencePiece model, as transformers 5 makes it for the class that tokenizer_config.json names.

LlamaTokenizer, GemmaTokenizer and XLMRobertaTokenizer read the pieces in ways of their own; without a class the model's
own settings decide, and ids are those of sentencepiece itself.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ggq.convert.source.vocabularies.proto import (
    BPE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    USER_DEFINED,
    SentencePiece,
    read_sentencepiece,
)
from ggq.errors import ConvertError, UnsupportedError
from ggq.text.special_tokens import token_text
from ggq.text.tokenizer_json import (
    SPACE,
    Step,
    bpe,
    metaspace,
    replace,
    sequence,
    split,
    strip_left,
    template,
    unigram,
    write_document,
)

Settings = Mapping[str, Any]


def from_sentencepiece(data: bytes, path: Path, kind: str, settings: Settings) -> bytes:
    """The tokenizer.json of a model file.

    Args:
        data: The file.
        path: Its path, for messages.
        kind: The class that reads it, a name in CLASSES; "" for the model's own settings.
        settings: tokenizer_config.json.

    Raises:
        FormatError: It is no model file.
        UnsupportedError: A kind of model, or a setting of it, that cannot be turned over.
        ConvertError: It is of another kind than its class reads.
    """
    model = read_sentencepiece(data, path)
    if model.kind not in (UNIGRAM, BPE):
        raise UnsupportedError("a SentencePiece model of words or characters; bpe and unigram can be read", path=path)
    if model.suffix:
        raise UnsupportedError("a SentencePiece model that marks the ends of words", path=path)
    make, wanted = CLASSES[kind]
    if wanted not in (0, model.kind):
        raise ConvertError(f"{kind} reads {'bpe' if wanted == BPE else 'unigram'} models, this is another", path=path)
    parts = make(model, settings)
    ids = _ids(parts["model"])
    kinds = (CONTROL, USER_DEFINED) if kind else (CONTROL, UNKNOWN)  # the model's own settings keep the others whole
    added = {
        (ids[piece.text], piece.text, piece.kind != USER_DEFINED)
        for piece in model.pieces
        if piece.kind in kinds and piece.text in ids
    }
    return write_document(added=added, **parts)


def _ids(model: Step) -> Mapping[str, int]:
    """Ids by token."""
    found = model["vocab"]
    return found if isinstance(found, Mapping) else {token: number for number, (token, _) in enumerate(found)}


def begin_and_end(ids: Mapping[str, int], settings: Settings, names: Mapping[str, str]) -> Step:
    """What is put before and behind texts as tokenizer_config.json asks for it.

    Args:
        ids: Ids by token.
        settings: tokenizer_config.json.
        names: Texts of the tokens "bos" and "eos" where the settings do not say them.
    """
    texts = {key: token_text(settings.get(f"{key}_token")) or name for key, name in names.items()}
    wanted = [key for key, text in texts.items() if settings.get(f"add_{key}_token") is True and text in ids]
    before, behind = (["bos"] if "bos" in wanted else []), (["eos"] if "eos" in wanted else [])
    single, second = [*before, "A", *behind], [*before, "B", *behind]
    pair = [(name, 0) for name in single] + [(name, 1) for name in second]
    return template(single, pair, {key: (ids[texts[key]], texts[key]) for key in wanted})


def merges_by_rank(vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """All pairs of tokens that make a token, those of the token of the smallest id first."""
    found = sorted(
        (number, cut, token)
        for token, number in vocabulary.items()
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    )
    return [(token[:cut], token[cut:]) for _, cut, token in found]


def _back(*, fallback: bool = True, prefix: bool) -> Step | None:
    """The decoder: spaces, bytes, and the space before a text taken off."""
    steps = [replace(SPACE, " "), *([{"type": "ByteFallback"}] if fallback else [])]
    steps += [{"type": "Fuse"}] if fallback or prefix else []
    return sequence("decoders", [*steps, *([strip_left()] if prefix else [])])


def _llama(model: SentencePiece, settings: Settings) -> dict[str, Any]:
    """Merges in the order of ids; a space before the first word, or before each part between added tokens."""
    vocabulary = {piece.text: number for number, piece in enumerate(model.pieces)}
    prefix = settings.get("add_prefix_space") is not False
    scheme = ("always" if settings.get("legacy") is True else "first") if prefix else "never"
    return {
        "model": bpe(vocabulary, merges_by_rank(vocabulary), fuse_unk=True, byte_fallback=True),
        "pre_tokenizer": metaspace(scheme, cut=False),
        "decoder": _back(prefix=prefix),
        "post_processor": begin_and_end(vocabulary, settings, {"bos": "<s>", "eos": "</s>"}),
    }


def _gemma(model: SentencePiece, settings: Settings) -> dict[str, Any]:
    """Merges in the order of ids, no space before the first word."""
    vocabulary = {piece.text: number for number, piece in enumerate(model.pieces)}
    unknown, merges = token_text(settings.get("unk_token")) or "<unk>", merges_by_rank(vocabulary)
    return {
        "model": bpe(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True),
        "normalizer": replace(" ", SPACE),
        "pre_tokenizer": split(" ", "MergedWithPrevious", "String"),
        "decoder": _back(prefix=False),
        "post_processor": begin_and_end(vocabulary, settings, {"bos": "<bos>", "eos": "<eos>"}),
    }


def _xlm_roberta(model: SentencePiece, settings: Settings) -> dict[str, Any]:
    """Four tokens before the pieces, of which the first three are left out, and <mask> behind them."""
    names = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    texts = {key: token_text(settings.get(f"{key}_token")) or name for key, name in names.items()}
    before = [(texts[key], 0.0) for key in ("bos", "pad", "eos", "unk")]
    pieces = [*before, *((piece.text, piece.score) for piece in model.pieces[3:]), (texts["mask"], 0.0)]
    scheme = "never" if settings.get("add_prefix_space") is False else "always"
    places = {token: number for number, (token, _) in enumerate(pieces)}
    single = ["bos", "A", "eos"]
    return {
        "model": unigram(pieces, 3, False),
        "normalizer": _charsmap(model),
        "pre_tokenizer": sequence("pretokenizers", [{"type": "WhitespaceSplit"}, metaspace(scheme)]),
        "decoder": metaspace(scheme),
        "post_processor": template(
            single,
            [(name, 0) for name in [*single, "eos", "B", "eos"]],
            {key: (places[texts[key]], texts[key]) for key in ("bos", "eos")},
        ),
    }


def _charsmap(model: SentencePiece) -> Step | None:
    rules = base64.b64encode(model.charsmap).decode("ascii")
    return {"type": "Precompiled", "precompiled_charsmap": rules} if rules else None


def _plain(model: SentencePiece, settings: Settings) -> dict[str, Any]:
    """What the model's own settings say: ids as sentencepiece gives them."""
    special = [piece.text for piece in model.pieces if piece.kind == USER_DEFINED]
    made = _plain_bpe(model, bool(special)) if model.kind == BPE else _plain_unigram(model)
    charsmap = _charsmap(model)
    steps = [] if charsmap is None else [charsmap]
    if model.strip_spaces:  # only spaces: other white space stays
        steps += [replace(r"\A +| +\z", "", "Regex"), replace(" {2,}", " ", "Regex")]
    if model.escape_spaces:
        steps.append(replace(" ", SPACE))
    legacy = settings.get("legacy", True) is True
    if model.dummy_prefix and legacy:  # the library puts none before a text that begins with one
        steps.append(replace(rf"\A{SPACE}", 2 * SPACE, "Regex"))
    cuts = [metaspace("always" if legacy else "first", cut=False)] if model.dummy_prefix else []
    if special:
        cuts.append(split("|".join(re.escape(text) for text in sorted(special, key=len, reverse=True))))
    names = {key: model.names[name] for key, name in (("bos", "begin"), ("eos", "end")) if getattr(model, name) >= 0}
    return {
        "model": made,
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": sequence("pretokenizers", cuts),
        "decoder": _back(fallback=model.byte_fallback, prefix=model.dummy_prefix),
        "post_processor": begin_and_end(_ids(made), settings, names),
    }


def _plain_bpe(model: SentencePiece, whole: bool) -> Step:
    """Merges of usual pieces, those of the highest score first."""
    vocabulary = {piece.text: number for number, piece in enumerate(model.pieces)}
    usual = {piece.text: (-piece.score, i) for i, piece in enumerate(model.pieces) if piece.kind == NORMAL}
    ranked = sorted(
        (*rank, token[:cut], token[cut:])
        for token, rank in usual.items()
        for cut in range(1, len(token))
        if token[:cut] in usual and token[cut:] in usual
    )
    return bpe(
        vocabulary,
        [(left, right) for _, _, left, right in ranked],
        unk_token=model.names["unknown"],
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
        ignore_merges=whole,
    )


def _plain_unigram(model: SentencePiece) -> Step:
    return unigram([(piece.text, piece.score) for piece in model.pieces], model.unknown, model.byte_fallback)


CLASSES: dict[str, tuple[Callable[[SentencePiece, Settings], dict[str, Any]], int]] = {
    "": (_plain, 0),
    "LlamaTokenizer": (_llama, BPE),
    "GemmaTokenizer": (_gemma, BPE),
    "XLMRobertaTokenizer": (_xlm_roberta, UNIGRAM),
}
"""Classes of transformers by what makes their tokenizer, and the kind of model that they read; 0 for both."""
