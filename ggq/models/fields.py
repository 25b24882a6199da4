"""Typed and bounded reads from a mapping that nobody has checked yet: config.json or a file's metadata."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence

from ggq.errors import ModelError, UnsupportedError

MOST_NUMBERS = 1 << 12
"""Numbers that a list of them may have."""


class Fields:
    """A mapping whose values are checked as they are read; refusals name the key, what was found and what is allowed.

    Args:
        values: Keys and values as they came; null counts as absent.
        path: The file that they came from, for the messages.
        prefix: Put before each key in the messages, for a mapping inside another.
    """

    def __init__(
        self, values: Mapping[str, object], path: str | os.PathLike[str] | None = None, prefix: str = ""
    ) -> None:
        self.values, self.path, self.prefix = values, path, prefix

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def error(self, key: str, problem: str) -> ModelError:
        """The refusal of one key's value."""
        return ModelError(problem, path=self.path, where=self.prefix + key)

    def unsupported(self, key: str, problem: str, fix: str | None = None) -> UnsupportedError:
        """The refusal of a value that is well-formed and that this version cannot run."""
        return UnsupportedError(problem, path=self.path, where=self.prefix + key, fix=fix)

    def get(self, key: str, default: object = None) -> object:
        """The value as it is, or `default`; without either, a ModelError."""
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise self.error(key, "missing")
        return value

    def integer(self, key: str, limits: tuple[int, int], default: int | None = None) -> int:
        """An integer within `limits`, both included."""
        value = self.get(key, default)
        low, high = limits
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, f"{shown(value)} found, an integer expected")
        if not low <= value <= high:
            raise self.error(key, f"{shown(value)} found, {low} to {high} allowed")
        return value

    def number(
        self, key: str, limits: tuple[float, float], default: float | None = None, *, zero: bool = False
    ) -> float:
        """A finite number above the first limit and not above the second, or, where `zero` is set, 0."""
        value = self.get(key, default)
        low, high = limits
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"{shown(value)} found, a number expected")
        if zero and value == 0:
            return 0.0
        if not low < value <= high:  # also refuses NaN; Python compares integers of any size with floats exactly
            more = "0, or " if zero else ""
            raise self.error(key, f"{shown(value)} found, {more}a number above {low:g} and up to {high:g} allowed")
        return float(value)

    def numbers(self, key: str, limits: tuple[float, float]) -> tuple[float, ...]:
        """A list of finite numbers, each above the first limit and not above the second."""
        value = self.get(key)
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise self.error(key, f"{shown(value)} found, a list of numbers expected")
        found = list(value)
        if not 1 <= len(found) <= MOST_NUMBERS:
            raise self.error(key, f"a list of {len(found)} found, 1 to {MOST_NUMBERS} numbers allowed")
        return tuple(Fields({key: each}, self.path, self.prefix).number(key, limits) for each in found)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"{shown(value)} found, true or false expected")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self.error(key, f"{shown(value)} found, a string expected")
        return value

    def choice(self, key: str, allowed: Sequence[str], default: str | None = None) -> str:
        """One of the strings that this version knows; another is an UnsupportedError."""
        value = self.text(key, default)
        if value not in allowed:
            raise self.unsupported(key, f"{shown(value)} is not supported; supported: {', '.join(allowed)}")
        return value

    def inner(self, key: str) -> Fields:
        """The mapping under a key."""
        value = self.get(key)
        if not isinstance(value, Mapping):
            raise self.error(key, f"{shown(value)} found, an object expected")
        return Fields(value, self.path, f"{self.prefix}{key}.")


def shown(value: object) -> str:
    """A short form of a found value for a message, whatever it is: escaped, and never longer than a line."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = ascii(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 80 else text[:77] + "..."
