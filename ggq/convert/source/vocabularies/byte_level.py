"""tokenizer.json of vocab.json and merges.txt: byte-pair encoding of bytes, as GPT-2, Qwen2 and RoBERTa have it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ggq.convert.source.json_input import load_object
from ggq.convert.source.vocabularies.sentencepiece import begin_and_end
from ggq.errors import ConvertError, FormatError
from ggq.models.fields import shown
from ggq.text.special_tokens import token_text
from ggq.text.tokenizer_json import Step, bpe, byte_level, sequence, split, write_document

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 cuts texts into words."""

KINDS = ("GPT2Tokenizer", "Qwen2Tokenizer", "RobertaTokenizer")
"""Classes of transformers that read these files."""


def from_merges(
    vocabulary: bytes, merges: bytes, places: tuple[Path, Path], kind: str, settings: Mapping[str, Any]
) -> bytes:
    """The tokenizer.json of two files.

    Args:
        vocabulary: vocab.json: ids by token.
        merges: merges.txt: a pair a line, the first to be merged first.
        places: Their paths, for messages.
        kind: One of KINDS.
        settings: tokenizer_config.json.

    Raises:
        FormatError: A file is not what its name says.
        ConvertError: A pair, or what it makes, is no token.
    """
    tokens = load_object(vocabulary, places[0])
    for token, number in tokens.items():
        if type(number) is not int or not 0 <= number < 1 << 31:
            raise FormatError(f"{shown(number)} found, a token's id expected", path=places[0], where=token[:80])
    pairs = read_merges(merges, places[1])
    for left, right in pairs:
        missing = next((token for token in (left, right, left + right) if token not in tokens), None)
        if missing is not None:
            raise ConvertError(f"{shown(missing)} is no token of {places[0].name}", path=places[1])
    prefix = settings.get("add_prefix_space") is True
    qwen = kind == "Qwen2Tokenizer"
    cuts = sequence("pretokenizers", [split(QWEN2), byte_level(prefix=prefix, regex=False)])
    return write_document(
        bpe(tokens, pairs, continuing_subword_prefix="", end_of_word_suffix=""),
        normalizer={"type": "NFC"} if qwen else None,
        pre_tokenizer=cuts if qwen else byte_level(prefix=prefix),
        decoder=byte_level(prefix=True),
        post_processor=_around(tokens, places[0], kind, settings, prefix),
    )


def _around(tokens: Mapping[str, int], path: Path, kind: str, settings: Mapping[str, Any], prefix: bool) -> Step:
    """What is put around texts."""
    if kind != "RobertaTokenizer":
        return begin_and_end(tokens, settings, {"bos": "<|endoftext|>", "eos": "<|endoftext|>"})
    last, first = (token_text(settings.get(f"{key}_token")) or name for key, name in (("sep", "</s>"), ("cls", "<s>")))
    for name in (first, last):
        if name not in tokens:
            raise ConvertError(f"no token {shown(name)} in it, which every text needs", path=path)
    return {
        "type": "RobertaProcessing",
        "sep": (last, tokens[last]),
        "cls": (first, tokens[first]),
        "trim_offsets": settings.get("trim_offsets") is not False,
        "add_prefix_space": prefix,
    }


def read_merges(data: bytes, path: Path) -> list[tuple[str, str]]:
    """The pairs of merges.txt; a line that begins with "#version" is none."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise FormatError(f"not UTF-8 at byte {problem.start}", path=path) from None
    found = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], 1):
        if line.startswith("#version"):
            continue
        parts = line.removesuffix("\r").split(" ")
        if len(parts) != 2 or not all(parts):
            raise FormatError(f"{shown(line)} found, two tokens expected", path=path, where=f"line {number}")
        found.append((parts[0], parts[1]))
    return found
