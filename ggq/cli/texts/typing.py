"""What a person types: lines with history and editing, messages of several lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

QUOTES = '"""'
"""Stands around a message of several lines."""
LONGEST_HISTORY = 1000


@contextmanager
def editing() -> Iterator[None]:
    """Line editing and history between sessions while the block runs, where there is a terminal."""
    readline = _readline() if sys.stdin.isatty() else None
    if readline is None:
        yield
        return
    with suppress(Exception):  # libedit, which macOS has, knows no such setting
        readline.parse_and_bind("set enable-bracketed-paste on")
    path = history_file()
    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(LONGEST_HISTORY)
    try:
        yield
    finally:
        with suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            readline.write_history_file(path)


def history_file() -> Path:
    """Where the history lies; nothing is kept for a user without a home."""
    from platformdirs import user_state_path

    try:
        return user_state_path("ggq") / "chat_history"
    except RuntimeError:
        return Path(os.devnull)


def _readline() -> Any:
    try:
        import readline

        return readline
    except ImportError:  # Windows
        return None


def read_message(help_text: str) -> str | None:
    """What is typed next, without the spaces around it; None at the end of the input.

    A line that is three double quotes, or begins with them, goes on to the next that ends with them. What is pasted on
    a terminal arrives whole.
    """
    lines: list[str] = []
    while True:
        try:
            line = input(("... " if lines else "> ") if sys.stdin.isatty() else "")
        except EOFError:
            return None if not lines else _message(lines)
        except KeyboardInterrupt:
            print(f"\n{help_text}", file=sys.stderr)
            lines = []
            continue
        opened = bool(lines) or line.lstrip().startswith(QUOTES)
        if not opened:
            return line.strip()
        lines.append(line)
        text = "\n".join(lines).strip()
        if len(text) >= 2 * len(QUOTES) and text.endswith(QUOTES):
            return _message(lines)


def _message(lines: list[str]) -> str:
    return "\n".join(lines).strip().removeprefix(QUOTES).removesuffix(QUOTES).strip()
