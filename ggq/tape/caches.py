"""What a sequence keeps from token to token: one spec for each cache of a program, and groups of equal ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod


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


@dataclass(frozen=True)
class StateSpec:
    """Numbers that a layer carries from token to token in float32, as many whatever the length of the sequence.

    Args:
        shape: Of the numbers; the last dimension is padded to whole vectors where kernels keep them.
    """

    shape: tuple[int, ...]

    def numbers(self, lanes: int) -> int:
        """How many there are, each last dimension padded to a multiple of `lanes`."""
        return prod(self.shape[:-1]) * -(-self.shape[-1] // lanes) * lanes


CacheSpec = KeyValueSpec | StateSpec
"""Every kind of cache."""


@dataclass(frozen=True)
class CacheGroup:
    """Caches of keys and values of equal spec, whose pages are allocated together.

    Args:
        spec: What they have in common.
        members: Their places among the program's caches.
    """

    spec: KeyValueSpec
    members: tuple[int, ...]


def groups(caches: Sequence[CacheSpec]) -> tuple[CacheGroup, ...]:
    """Caches of keys and values by spec, in the order in which the specs first occur; states belong to no group."""
    places: dict[KeyValueSpec, list[int]] = {}
    for place, spec in enumerate(caches):
        if isinstance(spec, KeyValueSpec):
            places.setdefault(spec, []).append(place)
    return tuple(CacheGroup(spec, tuple(members)) for spec, members in places.items())


def state_numbers(caches: Sequence[CacheSpec], lanes: int) -> int:
    """Numbers of all states of a sequence, one behind the other in the order of the caches."""
    return sum(spec.numbers(lanes) for spec in caches if isinstance(spec, StateSpec))
