"""tokenizer.json of tekken.json, Mistral's list of byte strings in the order in which they are merged."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ggq.convert.source.json_input import load_object
from ggq.errors import FormatError, UnsupportedError
from ggq.models.fields import shown
from ggq.text.tokenizer_json import bpe, byte_level, sequence, split, template, write_document

FILLER = "<SPECIAL_{}>"
"""Special tokens that have no name."""

BEGIN = "<s>"
MOST_SPECIAL = 1 << 20


def from_tekken(data: bytes, path: Path) -> bytes:
    """The tokenizer.json of a file; texts begin with <s>, as mistral-common has it.

    Args:
        data: tekken.json.
        path: Its path, for messages.

    Raises:
        FormatError: It is not what its name says.
        UnsupportedError: It does not list its special tokens, as the first such files.
    """
    document = load_object(data, path)
    config = document.get("config")
    if not isinstance(config, Mapping) or not isinstance(config.get("pattern"), str):
        raise FormatError("no pattern that cuts texts into words", path=path, where="config.pattern")
    special = _special(document, config, path)
    ranks = _ranks(document, config, len(special), path)
    letters = byte_letters()
    texts = ["".join(letters[byte] for byte in token) for token in ranks]
    places = {token: rank for rank, token in enumerate(ranks)}
    merges = [
        (texts[left], texts[right])
        for token in ranks
        for left, right in sorted(
            (places[token[:cut]], places[token[cut:]])
            for cut in range(1, len(token))
            if token[:cut] in places and token[cut:] in places
        )
    ]
    vocabulary = {text: rank + len(special) for rank, text in enumerate(texts)}
    vocabulary |= {text: rank for rank, text in enumerate(special)}
    around = byte_level(prefix=True, trim=False)
    if BEGIN in special:
        tokens = {"begin": (special.index(BEGIN), BEGIN)}
        around = template(["begin", "A"], [("begin", 0), ("A", 0), ("B", 1)], tokens)
    return write_document(
        bpe(vocabulary, merges, ignore_merges=True),
        added=[(rank, text, True) for rank, text in enumerate(special)],
        pre_tokenizer=sequence("pretokenizers", [split(config["pattern"]), byte_level(regex=False)]),
        decoder=byte_level(prefix=True),
        post_processor=around,
    )


def _special(document: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> list[str]:
    """The special tokens by id, with names for those that have none."""
    listed = document.get("special_tokens")
    if not isinstance(listed, list):
        raise UnsupportedError("its special tokens are not listed", path=path, where="special_tokens")
    found: dict[int, str] = {}
    for item in listed:
        rank, text = (item.get("rank"), item.get("token_str")) if isinstance(item, Mapping) else (None, None)
        if type(rank) is not int or not isinstance(text, str) or not text or rank in found:
            problem = f"{shown(item)} found, a token's rank and text expected"
            raise FormatError(problem, path=path, where="special_tokens")
        found[rank] = text
    count = config.get("default_num_special_tokens", len(found))
    if sorted(found) != list(range(len(found))) or type(count) is not int or not len(found) <= count <= MOST_SPECIAL:
        raise FormatError("ranks do not follow each other from 0", path=path, where="special_tokens")
    return [found.get(rank, FILLER.format(rank)) for rank in range(count)]


def _ranks(document: Mapping[str, Any], config: Mapping[str, Any], special: int, path: Path) -> list[bytes]:
    """The tokens as bytes, in the order in which they are merged, without those that only fill the list up."""
    listed, size = document.get("vocab"), config.get("default_vocab_size")
    if not isinstance(listed, list) or not (size is None or (type(size) is int and size >= special)):
        raise FormatError("no list of tokens", path=path, where="vocab")
    found: list[bytes] = []
    for number, item in enumerate(listed if size is None else listed[: size - special]):
        try:
            found.append(base64.b64decode(item["token_bytes"], validate=True))
        except (TypeError, KeyError, ValueError, binascii.Error):
            raise FormatError(f"{shown(item)} found, a token expected", path=path, where=f"vocab[{number}]") from None
    if len(set(found)) < len(found) or b"" in found:
        raise FormatError("a token comes twice, or is empty", path=path, where="vocab")
    return found


def byte_letters() -> list[str]:
    """The characters that stand for bytes in GPT-2's tokenizer and all that follow it."""
    shown_as = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in shown_as else chr(next(others)) for byte in range(256)]
