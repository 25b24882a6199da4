"""The one error family: every refusal names what was found, where, and what to do."""

from __future__ import annotations

import os
from collections.abc import Iterable


class GGQError(Exception):
    """A refusal that a user can act on; the command line prints it in one or two lines and exits with status 2.

    Args:
        problem: What was found and what is allowed, one sentence without a full stop.
        path: The file that it is about, if any.
        where: The place inside the file: an offset, a key or a tensor's name.
        fix: What to do about it, one short sentence.
    """

    def __init__(
        self,
        problem: str,
        *,
        path: str | os.PathLike[str] | None = None,
        where: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.problem, self.where, self.fix = problem, where, fix
        self.path = None if path is None else os.fspath(path)
        place = ": ".join(part for part in (self.path, where) if part)
        text = f"{place}: {problem}" if place else problem
        super().__init__(f"{text}\n{fix}" if fix else text)


class FormatError(GGQError):
    """A file whose bytes break a rule of its format."""


class UnsupportedError(GGQError):
    """Something well-formed that this version cannot do."""


class ConvertError(GGQError):
    """A checkpoint that cannot be converted, or a conversion that cannot go on."""


class ModelError(GGQError):
    """A file whose model cannot be run: sizes that contradict each other, tensors missing or misshapen."""


class NotFiniteError(ModelError):
    """A model that computes NaN or infinity."""


class UsageError(GGQError):
    """An argument that is out of range or contradicts another."""


def one_of(words: Iterable[str]) -> str:
    """Allowed words for a message: "int8 or float32", "group, token or static"."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def nearest(word: str, words: Iterable[str]) -> str | None:
    """A hint at the word that was meant: "did you mean q4-g32?"; None when none is near."""
    from difflib import get_close_matches

    found = get_close_matches(word.lower(), list(words), n=1, cutoff=0.5)
    return f"did you mean {found[0]}?" if found else None
