"""How commands print: escaped text, sizes, JSON, progress; tables are in layout.py."""

from __future__ import annotations

import json
import math
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

LONG_TEXT, LONG_LIST = 72, 4
"""Characters of a text and items of a list that a summary shows."""

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that move the cursor, reorder text or show nothing."""


def printable(text: str) -> str:
    """The text with control characters, bidirectional marks and other invisible characters as escapes.

    Args:
        text: Anything that came out of a file.

    Returns:
        One line that does to a terminal nothing but print.
    """
    return "".join(
        character.encode("unicode_escape").decode("ascii") if unicodedata.category(character) in _HIDDEN else character
        for character in text
    )


def size(count: int) -> str:
    """A number of bytes for people, in decimal units: 1.84 MB."""
    if count < 1000:
        return f"{count} B"
    power = min(int(math.log10(count) // 3), 5)
    number = count / 1000**power
    if number >= 999.5 and power < 5:
        power, number = power + 1, number / 1000
    return f"{number:.3g} {' kMGTP'[power]}B"


def quantity(count: int) -> str:
    """A count for people: 1.24 billion."""
    for limit, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if count >= limit:
            return f"{count / limit:.3g} {name}"
    return str(count)


def one_line(value: Any, *, whole: bool = False) -> str:
    """A metadata value as one printable line, abbreviated unless `whole`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (bytes, bytearray)):
        return value.hex() if whole or len(value) <= 32 else f"{value[:32].hex()}... ({len(value)} bytes)"
    if isinstance(value, str):
        text = value if whole else value[: LONG_TEXT + 1]
        return printable(text) if len(text) <= LONG_TEXT or whole else f"{printable(value[:LONG_TEXT])}..."
    if isinstance(value, (int, float)):
        return str(value)
    items = ", ".join(_item(item, whole) for item in islice(value, None if whole else LONG_LIST))
    return f"[{items}]" if whole or len(value) <= LONG_LIST else f"[{items}, ...] ({len(value)} items)"


def _item(item: Any, whole: bool) -> str:
    return f'"{one_line(item, whole=whole)}"' if isinstance(item, str) else one_line(item, whole=whole)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document; what JSON has no form for becomes null (not a number) or hexadecimal text (bytes)."""
    print(json.dumps(_plain(document), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    """The value in the types that json writes."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    return [_plain(item) for item in value]


@contextmanager
def progress(label: str, unit: str = "bytes") -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on standard error while the block runs.

    Args:
        label: What is going on.
        unit: What is counted.

    Returns:
        A function to call with the number done and the number in all; None when nobody watches.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counts = [DownloadColumn()] if unit == "bytes" else [MofNCompleteColumn(), TextColumn(unit)]
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
