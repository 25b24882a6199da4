"""SentencePiece's model file: a protocol buffer, of which the fields that decide about token ids are read."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ggq.errors import FormatError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""Kinds of pieces."""

UNIGRAM, BPE = 1, 2
"""Kinds of models that can be run."""

VARINT, EIGHT_BYTES, RUN, FOUR_BYTES = 0, 1, 2, 5
"""How a field is stored."""

Number = int | bytes


@dataclass(frozen=True)
class Piece:
    """A token: its text, its score, what kind it is."""

    text: str
    score: float = 0.0
    kind: int = NORMAL


@dataclass(frozen=True)
class SentencePiece:
    """What a model file says, with the defaults of sentencepiece_model.proto.

    Args:
        pieces: By id.
        kind: UNIGRAM, BPE, or another that is not read.
        byte_fallback: Whether unknown characters become pieces of bytes.
        unknown, begin, end: Ids of the pieces of these meanings; -1 for none.
        names: Their texts.
        charsmap: Rules of normalizing, b"" for none.
        dummy_prefix: Whether a space is put before a text.
        strip_spaces: Whether spaces at the ends are taken off, and several become one.
        escape_spaces: Whether spaces become "▁".
        suffix: Whether that stands behind words.
    """

    pieces: tuple[Piece, ...]
    kind: int = UNIGRAM
    byte_fallback: bool = False
    unknown: int = 0
    begin: int = 1
    end: int = 2
    names: dict[str, str] = field(default_factory=lambda: {"unknown": "<unk>", "begin": "<s>", "end": "</s>"})
    charsmap: bytes = b""
    dummy_prefix: bool = True
    strip_spaces: bool = True
    escape_spaces: bool = True
    suffix: bool = False


TRAINER = {3: "kind", 24: "suffix", 35: "byte_fallback", 40: "unknown", 41: "begin", 42: "end"}
NAMES = {45: "unknown", 46: "begin", 47: "end"}
NORMALIZER = {2: "charsmap", 3: "dummy_prefix", 4: "strip_spaces", 5: "escape_spaces"}
"""Fields of the messages by number: trainer_spec, normalizer_spec."""

FLAGS = ("suffix", "byte_fallback", "dummy_prefix", "strip_spaces", "escape_spaces")


def read_sentencepiece(data: bytes, path: Path) -> SentencePiece:
    """A model file.

    Args:
        data: All of it.
        path: For messages.

    Raises:
        FormatError: It is none, or is cut short.
    """
    pieces: list[Piece] = []
    found: dict[str, object] = {}
    names = {"unknown": "<unk>", "begin": "<s>", "end": "</s>"}
    try:
        for number, value in _fields(data):
            if number == 1:
                pieces.append(_piece(_run(value)))
            elif number == 2:
                for inner, each in _fields(_run(value)):
                    if inner in NAMES:
                        names[NAMES[inner]] = _run(each).decode("utf-8")
                    elif inner in TRAINER:
                        found[TRAINER[inner]] = _signed(each)
            elif number == 3:
                for inner, each in _fields(_run(value)):
                    if inner in NORMALIZER:
                        found[NORMALIZER[inner]] = _run(each) if inner == 2 else _signed(each)
    except (ValueError, struct.error) as problem:
        raise FormatError(f"not a SentencePiece model: {problem}", path=path) from None
    if not pieces:
        raise FormatError("not a SentencePiece model: it has no pieces", path=path)
    found |= {name: bool(found[name]) for name in FLAGS if name in found}
    return SentencePiece(tuple(pieces), names=names, **found)  # type: ignore[arg-type]


def _piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1:
            text = _run(value).decode("utf-8")
        elif number == 2:
            score = struct.unpack("<f", _run(value))[0]
        elif number == 3:
            kind = _signed(value)
    return Piece(text, score, kind)


def _fields(data: bytes) -> Iterator[tuple[int, Number]]:
    """Numbers and values of a message's fields: an int, or the bytes of anything longer."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == RUN:
            size, at = _varint(data, at)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            size = 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field of kind {kind} at byte {at}")
        if size > len(data) - at:
            raise ValueError(f"{size} bytes are announced at byte {at}, {len(data) - at} are left")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of up to ten bytes, and where the next value begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends within a number")
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError(f"a number of more than ten bytes at byte {at - 10}")


def _run(value: Number) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where text is expected")
    return value


def _signed(value: Number) -> int:
    """A number of 64 bits, of which the highest is the sign."""
    if not isinstance(value, int):
        raise ValueError("text where a number is expected")
    return value - (1 << 64) if value >> 63 else value
