"""Pieces of Lark grammars, in the form of llguidance: fixed texts, added tokens, JSON by a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON in grammars as `json.dumps` writes it."""

TokenOf = Callable[[str], "int | None"]
"""The id of a text that is one added token, None where it is not."""


def json_of(schema: Mapping[str, Any]) -> str:
    """What stands behind %json."""
    return json.dumps({**schema, "x-guidance": COMPACT})


def escaped(text: str) -> str:
    """A regular expression of Lark that matches a text."""
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n")


def quoted(text: str) -> str:
    """A string of Lark."""
    return json.dumps(text)


def marked(text: str, token: TokenOf) -> str:
    """A fixed text in a grammar; added tokens in it by their ids."""
    found, plain = [], ""
    for piece in _MARK.split(text):
        number = token(piece) if piece else None
        if number is None:
            plain += piece
            continue
        found += [quoted(plain)] if plain else []
        found.append(f"<[{number}]>")
        plain = ""
    return " ".join([*found, *([quoted(plain)] if plain else [])])


_MARK = re.compile(r"(<[^<>\s]*>|\[[^\[\]\s]*\])")
"""What may be an added token."""
