"""BERT's vocab.txt, a token a line, as tokenizer.json, as transformers' BertTokenizer makes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ggq.convert.source.assets import TOKENIZER_CONFIG
from ggq.convert.source.folder import Folder
from ggq.errors import ConvertError, FormatError
from ggq.models.fields import Fields
from ggq.text.special_tokens import token_text

VOCABULARY = "vocab.txt"
LARGEST = 64 << 20
"""Bytes of it."""

CLASSES = ("None", "BertTokenizer", "BertTokenizerFast")
"""Values of "tokenizer_class" that read it in this way."""

SPECIAL = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
SPECIAL["mask_token"] = "[MASK]"
"""Special tokens by name, unless tokenizer_config.json calls them otherwise."""


def is_wordpiece(folder: Folder, settings: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's tokenizer is a vocab.txt of BERT's."""
    return VOCABULARY in folder and str(settings.get("tokenizer_class")) in CLASSES


def from_vocabulary(folder: Folder, settings: Mapping[str, Any]) -> bytes:
    """The tokenizer.json of a vocab.txt.

    Args:
        folder: The checkpoint's.
        settings: Its tokenizer_config.json.

    Raises:
        FormatError: The file is not UTF-8.
        ConvertError: It lacks a special token that every text needs.
        ModelError: A setting has the wrong type.
    """
    path, fields = folder.path / VOCABULARY, Fields(settings, folder.path / TOKENIZER_CONFIG)
    try:
        text = folder.read(VOCABULARY, LARGEST).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise FormatError(f"not UTF-8 at byte {problem.start}", path=path) from None
    lines = text.removesuffix("\n").split("\n")
    vocabulary = {line.removesuffix("\r"): number for number, line in enumerate(lines)}
    names = {key: token_text(settings.get(key)) or default for key, default in SPECIAL.items()}
    for key in ("unk_token", "cls_token", "sep_token"):
        if names[key] not in vocabulary:
            raise ConvertError(f"no token {names[key]!r} in it, which is the {key}", path=path)
    strip = fields.flag("strip_accents") if "strip_accents" in fields else None
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": fields.flag("tokenize_chinese_chars", True),
        "strip_accents": strip,
        "lowercase": fields.flag("do_lower_case", True),
    }
    model = {
        "type": "WordPiece",
        "unk_token": names["unk_token"],
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": vocabulary,
    }
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added([name for name in names.values() if name in vocabulary], vocabulary),
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _processor(names["cls_token"], names["sep_token"], vocabulary),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": model,
    }
    return json.dumps(document, ensure_ascii=False).encode()


def _added(names: list[str], vocabulary: Mapping[str, int]) -> list[dict[str, Any]]:
    """The special tokens, which a text may have as they are written."""
    marks = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    numbers = sorted((vocabulary[name], name) for name in dict.fromkeys(names))
    return [{"id": number, "content": name, **marks, "special": True} for number, name in numbers]


def _processor(first: str, end: str, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """What is put around a text, and around two: the second is of type 1."""

    def token(name: str, kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    single = [token(first, 0), {"Sequence": {"id": "A", "type_id": 0}}, token(end, 0)]
    second = [{"Sequence": {"id": "B", "type_id": 1}}, token(end, 1)]
    tokens = {name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in (first, end)}
    return {"type": "TemplateProcessing", "single": single, "pair": single + second, "special_tokens": tokens}
