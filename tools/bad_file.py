"""One file that breaks a rule of the specification: its record, and the good files that are bent into it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from tools.draft import FLOAT32, STRING, Draft, pattern, two_level, uniform

Bend = Callable[[Draft], object]


class Bad(NamedTuple):
    """A bad file: its name, the rule that it breaks, a part of the message, and how it is made.

    `start` gives the good file to begin with, `bend` changes it before it is put together, `cut` its bytes afterwards.
    `stage` is when a reader refuses it: "open", "verify" for what only a verifier must see, or "numbers" for bytes that
    are those written and break a rule of spec/schemes.md.
    """

    name: str
    rule: str
    text: str
    start: Callable[[], Draft]
    bend: Bend = lambda draft: None
    cut: Callable[[bytes], bytes] = lambda raw: raw
    stage: str = "open"

    def build(self) -> bytes:
        """The file."""
        draft = self.start()
        self.bend(draft)
        return self.cut(draft.build())


def bare() -> Draft:
    """One metadata entry."""
    draft = Draft()
    draft.entry("general.name", STRING, "bad")
    return draft


def full() -> Draft:
    """Two tensors with an attribute, one asset; everything the tables can hold."""
    draft = bare()
    four, floats = draft.scheme(uniform(4, [4], 32)), draft.scheme(FLOAT32)
    draft.tensor("a.weight", (16, 32), four, [pattern(256, 3), struct.pack("<16e", *range(16))])
    draft.tensor("b.bias", (3,), floats, [struct.pack("<3f", 1.5, -2, 0.25)])
    draft.attribute("role", STRING, {0: "layers.0.mlp.up.weight", 1: "norm.weight"})
    draft.asset("LICENSE", b"MIT\n")
    return draft


def floats_only(name: str | bytes = "b.bias", shape: tuple[int, ...] = (3,), length: int = 12) -> Draft:
    """One tensor of floats."""
    draft = Draft()
    draft.tensor(name, shape, draft.scheme(FLOAT32), [bytes(length)])
    return draft


def coded(raw: bytes, parts: list[int | bytes], shape: tuple[int, ...] = (16, 32)) -> Draft:
    """One tensor of a scheme, each segment given as its bytes or as a number of zeros."""
    draft = Draft()
    draft.tensor("a.weight", shape, draft.scheme(raw), [bytes(part) for part in parts])
    return draft


SUBSCALED, BOTH = two_level(4, [4], 32, 6), two_level(4, [4], 32, 6, zero=2)
BOOK = uniform(2, [2], 32, kind=4)
SCALED, ORDERED = uniform(4, [4], 32, transform=1), uniform(4, [4], 32, transform=2)
