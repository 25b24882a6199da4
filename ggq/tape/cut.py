"""Cutting a program between layers, so that the weights of one layer are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ggq.tape.buffers import Buffer
from ggq.tape.caches import KeyValueSpec
from ggq.tape.ops.operation import Operation
from ggq.tape.program import Program

CACHE = "cache."
"""What the names of buffers begin with that stand for caches."""


@dataclass(frozen=True)
class Section:
    """Consecutive operations whose weights belong to one layer, or to none.

    Args:
        name: "layers.N", or "" before the first layer and behind the last.
        ops: Its operations.
        kept: Buffers that a later section reads; keys and values of a cache are such too (`cache_buffers`).
    """

    name: str
    ops: tuple[Operation, ...]
    kept: frozenset[Buffer]

    def uses(self) -> Iterator[tuple[Operation, frozenset[Buffer]]]:
        """Each operation with the buffers that are still read after it."""
        needed = set(self.kept)
        uses: list[frozenset[Buffer]] = []
        for op in reversed(self.ops):
            uses.append(frozenset(needed))
            needed = before(op, needed)
        yield from zip(self.ops, reversed(uses), strict=True)


def before(op: Operation, needed: set[Buffer]) -> set[Buffer]:
    """The buffers that must hold something before an operation, given those that must afterwards."""
    return (needed - set(op.writes())) | set(op.reads())


def sections(program: Program) -> list[Section]:
    """The program cut where the layer changes."""
    parts: list[tuple[str, list[Operation]]] = []
    for op in program.ops:
        found = [layer_of(role) for role in op.weights_read()[:1]]
        if not parts or (found and found[0] != parts[-1][0]):
            parts.append((found[0] if found else "", []))
        parts[-1][1].append(op)
    needed: set[Buffer] = set()
    read: set[int] = set()
    result: list[Section] = []
    for name, ops in reversed(parts):
        kept = {buffer for cache in read for buffer in cache_buffers(program, cache)}
        result.append(Section(name, tuple(ops), frozenset(needed | kept)))
        read.update(cache for op in ops for cache in op.caches_read())
        read.difference_update(cache for op in ops for cache in op.caches_written())
        for op in reversed(ops):
            needed = before(op, needed)
    return result[::-1]


def cache_buffers(program: Program, cache: int) -> tuple[Buffer, Buffer]:
    """What stands for keys and values that a later section reads."""
    spec = program.caches[cache]
    assert isinstance(spec, KeyValueSpec)  # states are read where they are carried on
    width = spec.kv_heads * spec.head_dim
    return Buffer(f"{CACHE}{cache}.keys", width), Buffer(f"{CACHE}{cache}.values", width)


def cache_of(buffer: Buffer) -> tuple[int, int] | None:
    """The cache that a buffer stands for, and 0 for its keys or 1 for its values; None for other buffers."""
    if not buffer.name.startswith(CACHE):
        return None
    cache, _, what = buffer.name.removeprefix(CACHE).partition(".")
    return int(cache), int(what == "values")


def layer_of(role: str) -> str:
    """ "layers.N", or "" for a tensor of no layer."""
    return ".".join(role.split(".")[:2]) if role.startswith("layers.") else ""
