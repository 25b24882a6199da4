"""Where a transform of a matrix's inputs can be folded: into what produces them, as a tape tells."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ggq.tape.program import Attention, Buffer, Gate, Linear, Norm, Op, Rope, Select, StoreKV, Tape


@dataclass(frozen=True, eq=False)
class Site:
    """Inputs that matrices share.

    Args:
        consumers: Roles of those matrices.
        columns: Width of the inputs.
        norm: Role of the norm weight that can take a scale, or None.
        producers: Roles of the matrices whose rows make the inputs: an order goes to all of them, a scale to the first
            alone (the others go through an activation first). Empty where there are none.
        biases: Of the producers, as far as they have some.
        source: int64 (columns,): the producers' row behind each input.
        block: Rows that may change places, each such run among themselves; 0 where none may.
    """

    consumers: tuple[str, ...]
    columns: int
    norm: str | None
    producers: tuple[str, ...]
    biases: tuple[str | None, ...]
    source: np.ndarray
    block: int

    @property
    def takes_scale(self) -> bool:
        """Whether a scale can be folded."""
        return self.norm is not None or bool(self.producers)

    @property
    def takes_order(self) -> bool:
        """Whether an order can be folded."""
        return bool(self.producers) and self.block > 1


@dataclass(frozen=True, eq=False)
class _Origin:
    """What a buffer's columns come from."""

    norm: str | None
    producers: tuple[str, ...]
    biases: tuple[str | None, ...]
    source: np.ndarray
    block: int


def sites(tape: Tape) -> list[Site]:
    """The inputs of all matrices, in the order of the tape.

    Columns of a matrix that is also read by another operation (an embedding that is the output too), and inputs that
    another operation reads too, are left as they are: nothing can be folded there.
    """
    users = Counter(role for op in tape.ops for role in _matrices(op))
    origins: dict[Buffer, _Origin | None] = {}
    values: dict[int, _Origin | None] = {}
    found: list[Site] = []
    for place, op in enumerate(tape.ops):
        if isinstance(op, Linear):
            origin = origins.get(op.source)
            alone = _readers(tape.ops, place, op.source) == 1 and all(users[role] == 1 for role in op.weights)
            found.append(_site(op, origin if alone else None))
            for role, bias, out in zip(op.weights, op.biases, op.outs, strict=True):
                rows = np.arange(out.width)
                origins[out] = None if op.add else _Origin(None, (role,), (bias,), rows, out.width)
        elif isinstance(op, Norm):
            origins[op.out] = _Origin(op.weight, (), (), np.arange(op.out.width), 0)
        elif isinstance(op, Rope):
            origins[op.buffer] = None
        elif isinstance(op, StoreKV):
            values[op.layer] = origins.get(op.value)
        elif isinstance(op, Attention):
            origins[op.out] = _attended(values[op.layer], tape)
        elif isinstance(op, Gate):
            origins[op.out] = _gated(origins.get(op.up), origins.get(op.gate))
        elif isinstance(op, Select):
            origins[op.out] = origins.get(op.source)
        else:
            origins[op.out] = None
    return found


def _matrices(op: Op) -> tuple[str, ...]:
    return op.weights if isinstance(op, Linear) else (op.table,) if hasattr(op, "table") else ()


def _site(op: Linear, origin: _Origin | None) -> Site:
    if origin is None:
        return Site(op.weights, op.source.width, None, (), (), np.arange(op.source.width), 0)
    return Site(op.weights, op.source.width, origin.norm, origin.producers, origin.biases, origin.source, origin.block)


def _attended(value: _Origin | None, tape: Tape) -> _Origin | None:
    """What heads make of the values: rows of the value matrix, once for each query head that shares them."""
    if value is None or value.norm is not None:
        return None
    head = np.arange(tape.heads)[:, None] // (tape.heads // tape.kv_heads)
    source = (head * tape.head_dim + np.arange(tape.head_dim)).reshape(-1)
    return _Origin(None, value.producers, value.biases, source, tape.head_dim)


def _gated(up: _Origin | None, gate: _Origin | None) -> _Origin | None:
    """What a gate makes: rows of `up`, which the activation does not touch, and of `gate`, which it does."""
    if up is None or gate is None or up.norm is not None or gate.norm is not None:
        return None
    return _Origin(None, (*up.producers, *gate.producers), (*up.biases, *gate.biases), up.source, up.block)


def _readers(ops: tuple[Op, ...], place: int, buffer: Buffer) -> int:
    """Operations that read what is in a buffer at a place of the tape, from where it was written until it is again."""
    first = max((i for i in range(place) if buffer in _outs(ops[i])), default=0)
    last = next((i for i in range(place + 1, len(ops)) if buffer in _outs(ops[i])), len(ops))
    return sum(buffer in _sources(op) for op in ops[first + 1 : last])


def _outs(op: Op) -> tuple[Buffer, ...]:
    if isinstance(op, Linear):
        return op.outs
    return tuple(getattr(op, name) for name in ("out", "buffer") if hasattr(op, name))


def _sources(op: Op) -> tuple[Buffer, ...]:
    names = ("source", "buffer", "key", "value", "query", "gate", "up")
    return tuple(buffer for name in names if isinstance(buffer := getattr(op, name, None), Buffer))
