"""Declarations of fields: what the value of a part's field may be, and what it means.

A part of a model is a frozen dataclass whose fields are annotated with one of these, as in
`heads: Annotated[int, Integer(1, 1 << 14, "query heads")]`. Checks, metadata and the tables of spec/metadata.md come
from the declarations alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from types import NoneType
from typing import Any, ClassVar, NamedTuple, get_args, get_type_hints

from ggq.models.fields import Fields


@dataclass(frozen=True)
class Integer:
    """An integer from `low` to `high`."""

    type: ClassVar[str] = "integer"
    low: int
    high: int
    doc: str

    def read(self, values: Fields, key: str) -> int:
        """The value under a key, checked."""
        return values.integer(key, (self.low, self.high))

    def allowed(self) -> str:
        """What is allowed, for the table."""
        return f"{self.low} to {self.high}"


@dataclass(frozen=True)
class Number:
    """A finite number above `low` and up to `high`; where `zero` is set, 0 too."""

    type: ClassVar[str] = "number"
    low: float
    high: float
    doc: str
    zero: bool = False

    def read(self, values: Fields, key: str) -> float:
        """The value under a key, checked."""
        return values.number(key, (self.low, self.high), zero=self.zero)

    def allowed(self) -> str:
        """What is allowed, for the table."""
        return f"{'0, or ' if self.zero else ''}above {self.low:g} and up to {self.high:g}"


@dataclass(frozen=True)
class Numbers:
    """At least one finite number, each above `low` and up to `high`."""

    type: ClassVar[str] = "list of number"
    low: float
    high: float
    doc: str

    def read(self, values: Fields, key: str) -> tuple[float, ...]:
        """The value under a key, checked."""
        return values.numbers(key, (self.low, self.high))

    def allowed(self) -> str:
        """What is allowed, for the table."""
        return f"each above {self.low:g} and up to {self.high:g}"


@dataclass(frozen=True)
class Flag:
    """True or false."""

    type: ClassVar[str] = "bool"
    doc: str

    def read(self, values: Fields, key: str) -> bool:
        """The value under a key, checked."""
        return values.flag(key)

    def allowed(self) -> str:
        """What is allowed, for the table."""
        return ""


@dataclass(frozen=True)
class Word:
    """One of some words."""

    type: ClassVar[str] = "string"
    words: tuple[str, ...]
    doc: str

    def read(self, values: Fields, key: str) -> str:
        """The value under a key, checked."""
        return values.choice(key, self.words)

    def allowed(self) -> str:
        """What is allowed, for the table."""
        return ", ".join(f"`{word}`" for word in self.words)


@dataclass(frozen=True)
class Part:
    """A part in a part: the field's type is one class of parts, or several of them and None."""

    doc: str


@dataclass(frozen=True)
class Parts:
    """A part for each layer, `tuple[CLASS, ...]`; see `ggq.models.metadata` for how a file keeps them."""

    doc: str


Value = Integer | Number | Numbers | Flag | Word
Declaration = Value | Part | Parts


class Declared(NamedTuple):
    """A field of a part.

    Args:
        name: Of the field.
        declaration: What its value may be.
        classes: Of the part that it holds; empty for other values.
        optional: Whether it may be None instead.
    """

    name: str
    declaration: Declaration
    classes: tuple[type, ...]
    optional: bool

    def by_kind(self) -> dict[str, type | None]:
        """The classes that its part may have, by kind; empty for a part of one class that has no kind."""
        found: dict[str, type | None] = {kind: each for each in self.classes for kind in kinds(each)}
        return {"none": None, **found} if self.optional else found


@cache
def declared(part: Any) -> dict[str, Declared]:
    """The fields of a class of parts by name, in order."""
    hints = get_type_hints(part, include_extras=True)
    found = {}
    for field in fields(part):
        hint, declaration = get_args(hints[field.name])
        options = get_args(hint) or (hint,)
        classes = tuple(each for each in options if each not in (NoneType, ...))
        held = classes if isinstance(declaration, Part | Parts) else ()
        found[field.name] = Declared(field.name, declaration, held, NoneType in options)
    return found


def declaration(part: type, name: str) -> Any:
    """What a field's value may be."""
    return declared(part)[name].declaration


def kinds(part: type) -> tuple[str, ...]:
    """The words under "kind" that stand for a class of parts: its own one, or those of its field of that name."""
    if "kind" in declared(part):
        return tuple(declaration(part, "kind").words)
    own = getattr(part, "kind", None)
    return () if own is None else (own,)
