"""Calls in the notation of Gemma 4, call:name{place:<|"|>Rome<|"|>,days:3}: keys bare, texts between marks.

Source: the description of the format in Google's documentation, "Gemma 4 Prompt Formatting" (2026).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ggq.serve.turn.lark import TokenOf, escaped, json_of, marked, quoted
from ggq.serve.turn.turn import Call, Tool

QUOTE = '<|"|>'
"""Before and behind a text, which is written as it is."""

DEEPEST = 32
"""Lists and objects within each other that are read."""

REFERENCES = 6
"""References within each other that are followed in a schema; behind them any value may stand."""

PLAIN = ("integer", "number", "boolean", "null")
"""Types that are written as in JSON."""

_START = re.compile(r"\s*call:([^{\s]+)\s*(?=\{)")
_KEY = re.compile(r"\s*([^:,{}\[\]]+?)\s*:")
_BARE = re.compile(r"[^,\]}]*")


def braced(text: str) -> list[Call]:
    """The call in what is between the marks of one; none where that is no call."""
    start = _START.match(text)
    if start is None:
        return []
    try:
        found, end = _value(text, start.end(), 0)
    except ValueError:
        return []
    if text[end:].strip() or not isinstance(found, dict):
        return []
    return [Call(start[1], json.dumps(found, ensure_ascii=False))]


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    """The value at a place, and where it ends.

    Raises:
        ValueError: There is none.
    """
    if depth > DEEPEST:
        raise ValueError("too deep")
    at = _behind_spaces(text, at)
    if text.startswith(QUOTE, at):
        end = text.index(QUOTE, at + len(QUOTE))
        return text[at + len(QUOTE) : end], end + len(QUOTE)
    if text.startswith('"', at):
        return json.JSONDecoder().raw_decode(text, at)
    if text.startswith("[", at):
        return _items(text, at + 1, "]", lambda place: _value(text, place, depth + 1))
    if text.startswith("{", at):
        pairs, end = _items(text, at + 1, "}", lambda place: _pair(text, place, depth + 1))
        return dict(pairs), end
    bare = _BARE.match(text, at)
    assert bare is not None
    word = bare[0].strip()
    if not word:
        raise ValueError("a value is missing")
    try:
        return json.loads(word), bare.end()
    except ValueError:
        return word, bare.end()


def _pair(text: str, at: int, depth: int) -> tuple[tuple[str, Any], int]:
    at = _behind_spaces(text, at)
    if text.startswith((QUOTE, '"'), at):
        key, at = _value(text, at, depth)
        at = _behind_spaces(text, at)
        if not text.startswith(":", at):
            raise ValueError("a colon is missing")
        at += 1
    else:
        found = _KEY.match(text, at)
        if found is None:
            raise ValueError("a key is missing")
        key, at = found[1], found.end()
    value, end = _value(text, at, depth)
    return (key, value), end


def _items(text: str, at: int, close: str, read: Callable[[int], tuple[Any, int]]) -> tuple[list[Any], int]:
    """What stands between commas, up to what closes it."""
    found: list[Any] = []
    at = _behind_spaces(text, at)
    if text.startswith(close, at):
        return found, at + 1
    while True:
        item, at = read(at)
        found.append(item)
        at = _behind_spaces(text, at)
        if text.startswith(close, at):
            return found, at + 1
        if not text.startswith(",", at):
            raise ValueError("a comma is missing")
        at += 1


def _behind_spaces(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def braced_rules(token: TokenOf) -> list[str]:
    """Rules of values that a schema says nothing of."""
    number = json_of({"type": "number"})
    return [
        f'braced_value: braced_text | %json {number} | "true" | "false" | "null" | braced_list | braced_object',
        f"braced_text: {_text({}, token)}",
        'braced_list: "[" (braced_value ("," braced_value)*)? "]"',
        'braced_object: "{" (braced_pair ("," braced_pair)*)? "}"',
        'braced_pair: /[A-Za-z0-9_$-]+/ ":" braced_value',
    ]


def braced_rule(tool: Tool, token: TokenOf) -> str:
    """The grammar of a call of a tool."""
    schema = {**tool.parameters, "type": "object", "properties": tool.parameters.get("properties", {})}
    return f"{quoted(f'call:{tool.name}')} {_Writer(tool.parameters, token).value(schema, 0)}"


class _Writer:
    """Grammars of values by their schemas.

    Args:
        root: The schema that references are looked up in.
        token: The id of a text that is one added token.
    """

    def __init__(self, root: Mapping[str, Any], token: TokenOf) -> None:
        self.root, self.token = root, token

    def value(self, schema: Any, references: int) -> str:
        """Of values that fit a schema; of any where it says what cannot be said here."""
        if not isinstance(schema, Mapping) or references > REFERENCES:
            return "braced_value"
        if "$ref" in schema:
            return self.value(self._looked_up(str(schema["$ref"])), references + 1)
        for words in (schema.get("enum"), [schema["const"]] if "const" in schema else None):
            if words:
                return _either(self._literal(word) for word in words)
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                return _either(self.value(each, references) for each in schema[key])
        kind = schema.get("type")
        if isinstance(kind, list):
            return _either(self.value({**schema, "type": each}, references) for each in kind)
        if kind in PLAIN:
            return f"%json {json_of(schema)}"
        if kind == "string":
            return _text(schema, self.token)
        if kind == "array":
            return self._list(schema, references)
        if kind == "object" and "properties" in schema:
            return self._object(schema, references)
        return "braced_object" if kind == "object" else "braced_value"

    def _looked_up(self, reference: str) -> Any:
        found: Any = self.root
        for name in reference.lstrip("#/").split("/"):
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    def _literal(self, value: Any) -> str:
        if isinstance(value, str):
            return " ".join((marked(QUOTE, self.token), quoted(value) if value else '""', marked(QUOTE, self.token)))
        return f"%json {json_of({'const': value})}"

    def _list(self, schema: Mapping[str, Any], references: int) -> str:
        item = self.value(schema.get("items", True), references)
        least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
        if most == 0:
            return '"[" "]"'
        more = f"{{{max(0, least - 1)},{'' if most is None else int(most) - 1}}}"
        inside = f'{item} ("," {item}){more}'
        return f'"[" ({inside}){"" if least else "?"} "]"'

    def _object(self, schema: Mapping[str, Any], references: int) -> str:
        """Required properties first, then of the others any, in the schema's order."""
        required = [name for name in schema.get("required", ()) if name in schema["properties"]]
        pairs = {
            name: f"{quoted(name + ':')} {self.value(each, references)}" for name, each in schema["properties"].items()
        }
        others = [name for name in pairs if name not in required]
        if required:
            first = ' "," '.join(pairs[name] for name in required)
            inside = " ".join([first, *(f'("," {pairs[name]})?' for name in others)])
        else:  # what comes first has no comma before it
            ways = [
                " ".join([pairs[name], *(f'("," {pairs[later]})?' for later in others[place + 1 :])])
                for place, name in enumerate(others)
            ]
            inside = f"{_either(ways)}?" if ways else ""
        return f'"{{" {inside} "}}"'


def _either(ways: Iterable[str]) -> str:
    return f"({' | '.join(ways)})"


def _text(schema: Mapping[str, Any], token: TokenOf) -> str:
    """A text between its marks; where they are no tokens of their own, it may not contain the beginning of one."""
    mark = marked(QUOTE, token)
    if token(QUOTE) is None:
        return rf"{mark} /(?s:[^<]*){escaped(QUOTE)}/"
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    pattern = str(schema.get("pattern", ""))
    if pattern:
        body = pattern.removeprefix("^") if pattern.startswith("^") else f"(?s:.*){pattern}"
        body = body.removesuffix("$") if pattern.endswith("$") else f"{body}(?s:.*)"
        return f"{mark} /{body.replace('/', chr(92) + '/')}/ {mark}"
    return f"{mark} /(?s:.{{{least},{most}}})/{'' if least else '?'} {mark}"
