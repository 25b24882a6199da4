"""A vocabulary of byte-pair encoding as a few arrays, in which the tokens that lie in a text are found at once."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 512
"""Characters that tokens may have."""

MULTIPLIER = 0x9E3779B97F4A7C15
"""Odd, so that it can be divided by: hashes are sums of characters times its powers, modulo 2^64."""
INVERSE = pow(MULTIPLIER, -1, 1 << 64)

BYTES = frozenset(f"<0x{i:02X}>" for i in range(256))
"""Tokens that stand for bytes where a character is unknown."""


@dataclass(frozen=True)
class Added:
    """A token that is found in a text before it is cut into words.

    Args:
        id: Its number.
        content: Its text.
        lstrip, rstrip: Whether it takes white space before or behind it too.
        normalized: Whether it is looked for in the text as it is normalized.
        special: Whether it decodes to nothing.
    """

    id: int
    content: str
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in the order of their ids, and merges.

    Args:
        settings: tokenizer.json without tokens and merges.
        added: Its added tokens.
        always: int32, the tokens that any text may need.
        text: uint8, the tokens' UTF-8 one behind the other.
        ends: int32 (tokens,), where each ends in it.
        ids: int32 (tokens,), increasing.
        hashes: uint64 (tokens,), increasing, no two of them equal.
        by_hash: int32 (tokens,), which token each hash is of.
        longest: Characters of the longest token.
        left, right, rank: int32 (merges,), the tokens that are merged and how early, in the order of the merged token.
        makes: int32 (tokens + 1,), where the merges that make each token begin.
    """

    settings: Mapping[str, Any]
    added: tuple[Added, ...]
    longest: int
    always: NDArray[np.int32]
    text: NDArray[np.uint8]
    ends: NDArray[np.int32]
    ids: NDArray[np.int32]
    hashes: NDArray[np.uint64]
    by_hash: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    rank: NDArray[np.int32]
    makes: NDArray[np.int32]

    def token(self, number: int) -> str:
        """The text of the token in a place."""
        start = int(self.ends[number - 1]) if number else 0
        return self.text[start : self.ends[number]].tobytes().decode("utf-8")

    def place(self, token_id: int) -> int | None:
        """The place of a token by its id."""
        at = int(np.searchsorted(self.ids, token_id))
        return at if at < len(self.ids) and self.ids[at] == token_id else None

    def within(self, words: Iterable[str]) -> NDArray[np.int64]:
        """The places of all tokens that are a part of a word, and of those of `always`; perhaps of more.

        A word's characters and their sums are laid out once for all words; every part of up to `longest` characters
        has a hash that is the difference of two sums.
        """
        several = [word for word in words if word]
        lengths = np.array([len(word) for word in several], np.int64)
        word_ends = np.repeat(np.cumsum(lengths), lengths)
        starts = np.arange(len(word_ends))[:, None]
        stops = starts + np.arange(1, min(self.longest, int(lengths.max(initial=0))) + 1)
        starts, stops = np.broadcast_arrays(starts, stops)
        inside = stops <= word_ends[:, None]
        wanted = hashes(characters("".join(several)), starts[inside], stops[inside])
        at = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        found = self.by_hash[at[self.hashes[at] == wanted]]
        return np.unique(np.concatenate([found, self.always])).astype(np.int64)

    def merges(self, places: NDArray[np.int64]) -> list[tuple[str, str]]:
        """The merges that make one of some tokens of two others of them, in order.

        Args:
            places: int64, increasing.
        """
        wanted = np.zeros(len(self.ids), np.bool_)
        wanted[places] = True
        first, behind = self.makes[places], self.makes[places + 1]
        of = np.concatenate([np.arange(start, stop) for start, stop in zip(first, behind)] or [np.zeros(0, np.int64)])
        of = of[wanted[self.left[of]] & wanted[self.right[of]]]
        of = of[np.argsort(self.rank[of])]
        return [(self.token(left), self.token(right)) for left, right in zip(self.left[of], self.right[of])]


ARRAYS = [field.name for field in fields(Vocabulary)[3:]]
"""The fields that are arrays."""


def characters(text: str) -> NDArray[np.uint32]:
    """A text's characters by number."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def hashes(points: NDArray[np.uint32], starts: NDArray[Any], stops: NDArray[Any]) -> NDArray[np.uint64]:
    """A number for each of some parts of a text, the same for equal parts.

    Args:
        points: (characters,), the text.
        starts, stops: int64 of one shape, where the parts begin and end.
    """
    one = np.ones(1, np.uint64)
    powers = np.cumprod(np.concatenate([one, np.full(len(points), MULTIPLIER, np.uint64)]), dtype=np.uint64)
    back = np.cumprod(np.concatenate([one, np.full(len(points), INVERSE, np.uint64)]), dtype=np.uint64)
    terms = (points.astype(np.uint64) + one) * powers[:-1]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    return np.asarray((sums[stops] - sums[starts]) * back[starts], np.uint64)


def make_vocabulary(data: bytes) -> Vocabulary | None:
    """The vocabulary of a tokenizer.json; None for one that a part of it might not stand for.

    Args:
        data: The file.
    """
    enabled = gc.isenabled()
    gc.disable()  # the collector would look through all the lists again and again
    try:
        document = json.loads(data)
        return _vocabulary(document) if _is_plain(document) else None
    except Exception:  # whatever is wrong with it, the library says it better
        return None
    finally:
        if enabled:
            gc.enable()


def _is_plain(document: Mapping[str, Any]) -> bool:
    model, added = document["model"], document["added_tokens"]
    affixes = [model.get("continuing_subword_prefix"), model.get("end_of_word_suffix"), model.get("dropout")]
    vocabulary: dict[str, int] = model["vocab"]
    following = len(vocabulary)
    for item in added:  # an id that the library would change is not ours to guess
        known = vocabulary.get(item["content"])
        if item["id"] != (following if known is None else known) or item["single_word"] or not item["content"]:
            return False
        following += known is None
    return model["type"] == "BPE" and not any(affixes)


def _vocabulary(document: Mapping[str, Any]) -> Vocabulary | None:
    model = document["model"]
    pairs = sorted(model["vocab"].items(), key=itemgetter(1))
    tokens, ids = [token for token, _ in pairs], np.array([number for _, number in pairs], np.int32)
    places = {token: place for place, token in enumerate(tokens)}
    lengths = np.array([len(token) for token in tokens], np.int64)
    stops = np.cumsum(lengths)
    found = hashes(characters("".join(tokens)), stops - lengths, stops)
    order = np.argsort(found)
    longest, found = int(lengths.max(initial=0)), found[order]
    if not tokens or longest > LONGEST or np.any(np.diff(ids) < 1) or np.any(found[1:] == found[:-1]):
        return None
    left, right, rank, makes = _merges(model["merges"], places)
    whole = {**document, "added_tokens": [], "model": {**model, "vocab": {}, "merges": []}}
    flags = ("lstrip", "rstrip", "normalized", "special")
    unknown = model.get("unk_token")
    return Vocabulary(
        settings=whole,
        added=tuple(
            Added(item["id"], item["content"], *(item[flag] for flag in flags)) for item in document["added_tokens"]
        ),
        longest=longest,
        always=np.array(sorted(places[token] for token in {*BYTES, unknown} & places.keys()), np.int32),
        text=np.frombuffer("".join(tokens).encode(), np.uint8),
        ends=np.cumsum([len(token.encode()) for token in tokens]).astype(np.int32),
        ids=ids,
        hashes=found,
        by_hash=order.astype(np.int32),
        left=left,
        right=right,
        rank=rank,
        makes=makes,
    )


def _merges(merges: Sequence[Any], places: Mapping[str, int]) -> tuple[NDArray[np.int32], ...]:
    """`left`, `right`, `rank` and `makes` of a vocabulary; raises where a merge has or makes what is no token."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    left = np.array([places[one] for one, _ in pairs], np.int32)
    right = np.array([places[other] for _, other in pairs], np.int32)
    made = np.array([places[one + other] for one, other in pairs], np.int64)
    order = np.argsort(made, kind="stable").astype(np.int32)
    makes = np.searchsorted(made[order], np.arange(len(places) + 1)).astype(np.int32)
    return left[order], right[order], order, makes
