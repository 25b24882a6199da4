"""Cutting a program between layers, so that the weights of one layer are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ggq.tape.buffers import Buffer
from ggq.tape.ops.operation import Operation
from ggq.tape.program import Program


@dataclass(frozen=True)
class Section:
    """Consecutive operations whose weights belong to one layer, or to none.

    Args:
        name: "layers.N", or "" before the first layer and behind the last.
        ops: Its operations.
        kept: Buffers that a later section reads.
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
    result: list[Section] = []
    for name, ops in reversed(parts):
        result.append(Section(name, tuple(ops), frozenset(needed)))
        for op in reversed(ops):
            needed = before(op, needed)
    return result[::-1]


def layer_of(role: str) -> str:
    """ "layers.N", or "" for a tensor of no layer."""
    return ".".join(role.split(".")[:2]) if role.startswith("layers.") else ""
