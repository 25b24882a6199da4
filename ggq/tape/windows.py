"""The tape over many whole windows of text at once, in float32 with BLAS: how calibration runs a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from ggq.tape.program import Attention, Buffer, Embed, Gate, Linear, Norm, Op, Rope, Select, StoreKV, Tape

Buffers = dict[Buffer, np.ndarray]
"""float32 (windows, context, width) by buffer; every row counts as wanted."""

Weights = Callable[[str], np.ndarray]
"""The float32 numbers of the tensor with a role."""

Observer = Callable[[Linear, np.ndarray], None]
"""Called with each Linear and its source, float32 (tokens, columns), before the product."""


@dataclass(frozen=True)
class Segment:
    """Consecutive operations whose weights belong to one layer, or to none.

    Args:
        name: "layers.N", or "" before the first layer and behind the last.
        ops: Its operations.
        kept: Buffers that a later segment reads.
    """

    name: str
    ops: tuple[Op, ...]
    kept: frozenset[Buffer]


def reads(op: Op) -> set[Buffer]:
    """Buffers whose contents an operation uses."""
    found = {getattr(op, field.name) for field in fields(op) if field.name not in ("out", "outs")}
    if isinstance(op, Linear) and op.add:
        found |= set(op.outs)
    return {buffer for buffer in found if isinstance(buffer, Buffer)}


def writes(op: Op) -> set[Buffer]:
    """Buffers that an operation fills."""
    found: tuple[object, ...] = tuple(getattr(op, name, None) for name in ("out", "buffer"))
    return {buffer for buffer in (*found, *getattr(op, "outs", ())) if isinstance(buffer, Buffer)}


def roles(op: Op) -> tuple[str, ...]:
    """Tensors that an operation reads, its matrices first."""
    if isinstance(op, Linear):
        return (*op.weights, *(bias for bias in op.biases if bias is not None))
    found = getattr(op, "weight", getattr(op, "table", None))
    return () if found is None else (found,)


def segments(tape: Tape) -> list[Segment]:
    """The tape cut where the layer changes, so that the weights of one layer are in memory at a time."""
    parts: list[tuple[str, list[Op]]] = []
    for op in tape.ops:
        found = [".".join(role.split(".")[:2]) if role.startswith("layers.") else "" for role in roles(op)[:1]]
        if not parts or (found and found[0] != parts[-1][0]):
            parts.append((found[0] if found else "", []))
        parts[-1][1].append(op)
    needed: set[Buffer] = set()
    result: list[Segment] = []
    for name, ops in reversed(parts):
        result.append(Segment(name, tuple(ops), frozenset(needed)))
        for op in reversed(ops):
            needed = (needed - writes(op)) | reads(op)
    return result[::-1]


class WindowRun:
    """Carries out operations of a tape on windows of equal length.

    Args:
        tape: Gives sizes and RoPE.
        context: Tokens of a window.
        weights: Where tensors come from; asked once for each operation that reads one.
        observe: Told of each matrix product; None where nobody asks.
    """

    def __init__(self, tape: Tape, context: int, weights: Weights, observe: Observer | None = None) -> None:
        self.tape, self.weights, self.observe = tape, weights, observe
        angles = np.arange(context)[:, None] * tape.frequencies
        self.cosine, self.sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        self.later = np.triu(np.full((context, context), -np.inf, np.float32), 1)

    def run(self, segment: Segment, tokens: np.ndarray, buffers: Mapping[Buffer, np.ndarray]) -> Buffers:
        """Carry out a segment.

        Args:
            segment: Of this tape.
            tokens: (windows, context), ids.
            buffers: What earlier segments kept for it; not changed.

        Returns:
            The buffers that later segments read. A product that nobody reads is observed and not computed.
        """
        state = dict(buffers)  # no operation changes an array, it puts another in its place
        cache: dict[int, Sequence[np.ndarray]] = {}
        with np.errstate(over="ignore", invalid="ignore"):  # whoever looks at the numbers finds what is infinite
            for op, useful in _with_use(segment):
                self.step(op, tokens, state, cache, useful)
        return {buffer: state[buffer] for buffer in segment.kept}

    def step(
        self,
        op: Op,
        tokens: np.ndarray,
        state: Buffers,
        cache: dict[int, Sequence[np.ndarray]],
        useful: frozenset[Buffer] | None = None,
    ) -> None:
        """Carry out one operation.

        Args:
            op: Of this tape.
            tokens: (windows, context), ids.
            state: What earlier operations wrote; the array that this one writes is put there.
            cache: Keys and values by layer.
            useful: Buffers that somebody reads afterwards; None for all.
        """
        if isinstance(op, Embed):
            state[op.out] = self.weights(op.table)[tokens]
        elif isinstance(op, Norm):
            x = state[op.source]
            mean = np.einsum("wtc,wtc->wt", x, x)[..., None] / np.float32(x.shape[-1])
            state[op.out] = x / np.sqrt(mean + np.float32(op.epsilon)) * self.weights(op.weight)
        elif isinstance(op, Linear):
            self._linear(op, state, useful)
        elif isinstance(op, Rope):
            state[op.buffer] = self.rotated(state[op.buffer], op.heads)
        elif isinstance(op, StoreKV):
            cache[op.layer] = (state[op.key], state[op.value])
        elif isinstance(op, Attention):
            state[op.out] = self._attended(state[op.query], cache[op.layer], op.scale)
        elif isinstance(op, Gate):
            gate = state[op.gate]
            state[op.out] = gate / (1 + np.exp(-np.maximum(gate, np.float32(-80)))) * state[op.up]
        elif isinstance(op, Select):
            state[op.out] = state[op.source]

    def _linear(self, op: Linear, state: Buffers, useful: frozenset[Buffer] | None) -> None:
        source = state[op.source]
        flat = source.reshape(-1, source.shape[-1])
        if self.observe is not None:
            self.observe(op, flat)
        for role, bias, out in zip(op.weights, op.biases, op.outs, strict=True):
            if useful is not None and out not in useful:
                continue
            result = flat @ self.weights(role).T
            if bias is not None:
                result += self.weights(bias)
            result = result.reshape(*source.shape[:-1], -1)
            state[out] = state[out] + result if op.add else result

    def rotated(self, x: np.ndarray, heads: int, back: bool = False) -> np.ndarray:
        """Each head's pairs turned by position times frequency, or turned back."""
        half = self.tape.rope_layout == "half"
        split = x.reshape(*x.shape[:2], heads, *((2, -1) if half else (-1, 2)))
        first, second = (split[..., 0, :], split[..., 1, :]) if half else (split[..., 0], split[..., 1])
        cosine, sine = self.cosine[:, None], -self.sine[:, None] if back else self.sine[:, None]
        turned = np.stack([first * cosine - second * sine, second * cosine + first * sine], -2 if half else -1)
        return turned.reshape(x.shape)

    def _attended(self, query: np.ndarray, cache: Sequence[np.ndarray], scale: float) -> np.ndarray:
        """Causal attention window by window, the scores of one window's heads in memory at a time."""
        tape, out = self.tape, np.empty_like(query)
        shared = tape.heads // tape.kv_heads
        for window in range(len(query)):
            q = query[window].reshape(-1, tape.kv_heads, shared, tape.head_dim).transpose(1, 2, 0, 3)
            k, v = (x[window].reshape(-1, tape.kv_heads, 1, tape.head_dim).transpose(1, 2, 0, 3) for x in cache)
            out[window] = (self.attention(q, k, scale) @ v).transpose(2, 0, 1, 3).reshape(len(q[0, 0]), -1)
        return out

    def attention(self, query: np.ndarray, key: np.ndarray, scale: float) -> np.ndarray:
        """Causal softmax of the scaled products of (..., context, head_dim) each, (..., context, context)."""
        scores = query @ key.swapaxes(-1, -2)
        scores *= np.float32(scale)
        scores += self.later
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        return scores


def _with_use(segment: Segment) -> Iterator[tuple[Op, frozenset[Buffer]]]:
    """Each operation with the buffers that are still read after it."""
    needed = set(segment.kept)
    uses: list[frozenset[Buffer]] = []
    for op in reversed(segment.ops):
        uses.append(frozenset(needed))
        needed = (needed - writes(op)) | reads(op)
    yield from zip(segment.ops, reversed(uses), strict=True)
