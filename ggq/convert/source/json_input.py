"""Reading JSON that nobody has checked yet: one parser for every JSON file of a checkpoint."""

from __future__ import annotations

import gc
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ggq.errors import FormatError
from ggq.format.identify import identify
from ggq.models.fields import shown

LONGEST_NUMBER = 400
"""Characters of the longest number that is read; the longest float64 written out has fewer."""

DEEPEST = 100
"""Objects and lists within each other that are read; a tokenizer.json has about ten."""


def load_json(data: bytes, path: str | os.PathLike[str], where: str | None = None, *, infinite: bool = False) -> Any:
    """The value that JSON text stands for, or a refusal that says where it is wrong.

    Args:
        data: The text's bytes, all of them.
        path: The file that they came from, for the messages.
        where: The place in that file, if they are not all of it.
        infinite: Whether Infinity and NaN are read, which are no JSON and which Python writes all the same; for files
            whose values are checked as they are used.

    Returns:
        Dictionaries without duplicate names, lists, strings without lone surrogates, integers, finite floats unless
        `infinite`, booleans, None.

    Raises:
        FormatError: No JSON, or JSON that another parser could read differently.
    """

    def refuse(problem: str) -> FormatError:
        return FormatError(problem, path=path, where=where)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            seen: set[str] = set()
            name = next(name for name, _ in items if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise refuse(f"the name {shown(name)} comes twice in one object")
        return found

    def integer(text: str) -> int:
        if len(text) > LONGEST_NUMBER:
            raise refuse(f"a number of {len(text)} digits, up to {LONGEST_NUMBER} allowed")
        return int(text)

    # Calling this for each of a vocabulary's ids took 0.2 s.
    parse_int = integer if _LONG_NUMBER in data.translate(_DIGITS) else None

    def number(text: str) -> float:
        value = float(text) if len(text) <= LONGEST_NUMBER else math.inf
        if not math.isfinite(value) and not infinite:
            raise refuse(f"the number {shown(text)} is too large")
        return value

    def constant(text: str) -> float:
        if infinite:
            return float(text)
        raise refuse(f"{text} found, which is not JSON")

    try:
        text = data.decode("utf-8-sig")
        _check_depth(data)
        with _no_collection():
            value = json.loads(
                text, object_pairs_hook=pairs, parse_int=parse_int, parse_float=number, parse_constant=constant
            )
        if b"\\ud" in data or b"\\uD" in data:  # only an escape can bring in a surrogate
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except UnicodeDecodeError as error:
        kind = identify(data[:64]) or f"no UTF-8 text (byte {error.start})"
        raise refuse(f"JSON expected, found {kind}") from None
    except json.JSONDecodeError as error:
        raise refuse(_not_json(data, error)) from None
    except UnicodeEncodeError:
        raise refuse("a string holds a lone surrogate, which is not Unicode") from None
    except _TooDeep:
        raise refuse(f"objects and lists lie deeper than {DEEPEST} within each other") from None


def load_object(
    data: bytes, path: str | os.PathLike[str], where: str | None = None, *, infinite: bool = False
) -> dict[str, Any]:
    """`load_json` of a file that must hold an object."""
    value = load_json(data, path, where, infinite=infinite)
    if not isinstance(value, dict):
        raise FormatError(f"{shown(value)} found, an object expected", path=path, where=where)
    return value


class _TooDeep(Exception):
    pass


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection meanwhile: a tokenizer's lists made it look through all of them again and again, 0.2 s."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_depth(data: bytes) -> None:
    """Refuse deep nesting before Python's parser meets it, whose own limit depends on its version and on the stack."""
    if data.count(b"[") + data.count(b"{") <= DEEPEST:
        return
    # Strings go first: escaped backslashes, then escaped quotes, then whatever stands between two quotes. What is
    # neither a bracket nor part of that goes before, so that most strings are empty and vanish at once.
    marks = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_CLOSED, _NO_MARKS)
    brackets = b"".join(marks.replace(b'""', b"").split(b'"')[::2])
    if brackets.count(b"[") <= DEEPEST:
        return
    # Each pass takes away the innermost pairs, so the passes count the depth; what is left unclosed counts as it is.
    for _ in range(DEEPEST):
        brackets = brackets.replace(b"[]", b"")
    if b"[]" in brackets or brackets.count(b"[") > DEEPEST:
        raise _TooDeep


_CLOSED = bytes.maketrans(b"{}", b"[]")
_NO_MARKS = bytes(set(range(256)) - set(b'[]{}"'))
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER = b"0" * (LONGEST_NUMBER + 1)


def _not_json(data: bytes, error: json.JSONDecodeError) -> str:
    """What is wrong with text that does not parse, or what the file is instead."""
    if not data.strip():
        return "JSON expected, the file is empty"
    kind = identify(data[:64])
    if kind is not None and kind != "JSON text":
        return f"JSON expected, found {kind}"
    return f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
