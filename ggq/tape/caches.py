"""What a sequence keeps from token to token: one spec for each cache of a program, and groups of equal ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class KeyValueSpec:
    """Keys and values of attention, one row of each for every position.

    Args:
        kv_heads: Key-value heads.
        head_dim: Numbers of a head.
        window: How many positions a token sees, its own included; 0 for all. Older ones need not be kept.
    """

    kv_heads: int
    head_dim: int
    window: int = 0


CacheSpec = KeyValueSpec
"""Every kind of cache."""


@dataclass(frozen=True)
class CacheGroup:
    """Caches of equal spec, whose pages are allocated together.

    Args:
        spec: What they have in common.
        members: Their places among the program's caches.
    """

    spec: CacheSpec
    members: tuple[int, ...]


def groups(caches: Sequence[CacheSpec]) -> tuple[CacheGroup, ...]:
    """Caches by spec, in the order in which the specs first occur."""
    places: dict[CacheSpec, list[int]] = {}
    for place, spec in enumerate(caches):
        places.setdefault(spec, []).append(place)
    return tuple(CacheGroup(spec, tuple(members)) for spec, members in places.items())
