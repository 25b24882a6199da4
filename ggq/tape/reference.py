"""The tape in plain NumPy, slowly and obviously: the oracle for every other executor."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence

import numpy as np

from ggq.errors import UsageError
from ggq.format.scheme import Scheme
from ggq.quant.floats import from_float32, to_float32
from ggq.quant.stored import StoredWeight
from ggq.tape.executor import check_runs, pieces, wanted_rows
from ggq.tape.program import (
    Attention,
    Buffer,
    Embed,
    Gate,
    Linear,
    Norm,
    Op,
    Rope,
    Run,
    Select,
    StoreKV,
    Tape,
    activation_group,
)

Weights = Callable[[str], StoredWeight | tuple[Scheme, np.ndarray]]
"""The tensor with a role; its scheme and its numbers alone where nothing is done to its inputs."""

ROWS = 256
"""Tokens at a time; bounds the score matrices and changes no result."""

TINY = np.float32(1e-36)
"""Groups of activations below this are rounded to zero: 127 over less would not be finite."""

CACHE_TYPES = {"f16": np.float16, "f32": np.float32}


class Cache:
    """Keys and values of one sequence, layer by layer, and how many tokens they cover."""

    def __init__(self, tape: Tape) -> None:
        self.length = 0
        self.keys = [np.zeros((0, tape.kv_heads, tape.head_dim)) for _ in range(tape.layers)]
        self.values = [np.zeros((0, tape.kv_heads, tape.head_dim)) for _ in range(tape.layers)]

    def first(self, length: int, copy: Cache) -> Cache:
        """The first tokens of this sequence, in `copy`; arrays are shared, as nothing writes into them."""
        copy.length = min(length, self.length)
        copy.keys, copy.values = ([rows[: copy.length] for rows in store] for store in (self.keys, self.values))
        return copy


class NumpyExecutor:
    """Walks a tape in float64; only int8 activations and the cache are rounded, exactly as the kernels round them.

    Args:
        tape: The model.
        weights: Where its tensors come from; each is asked for once.
        activations: "int8" rounds the source of a quantized matrix as that matrix asks for, after its transform and per
            activation group unless told otherwise; "float32" rounds nothing.
        cache: Float type that keys and values are rounded to, "f16" or "f32".

    Attributes:
        bf16_from: From how many rows on products with "int8" activations take source and weights rounded to bf16
            instead, as the kernels do where the processor has tiles of bf16; None for never.
    """

    def __init__(self, tape: Tape, weights: Weights, activations: str = "int8", cache: str = "f16") -> None:
        if activations not in ("int8", "float32"):
            raise UsageError(f"activations are int8 or float32, not {activations!r}")
        if cache not in CACHE_TYPES:
            raise UsageError(f"the cache is f16 or f32, not {cache!r}")
        self.tape, self.activations, self.cache_type = tape, activations, CACHE_TYPES[cache]
        self.bf16_from: int | None = None
        self._source = weights
        self._weights: dict[str, StoredWeight] = {}
        self._sequences: dict[int, Cache] = {}
        self._opened = 0
        self._lock = threading.Lock()

    def open_sequence(self) -> int:
        """The id of a new, empty sequence."""
        self._opened += 1
        self._sequences[self._opened] = Cache(self.tape)
        return self._opened

    def close_sequence(self, sequence: int) -> None:
        """Forget a sequence."""
        self._sequence(sequence)
        del self._sequences[sequence]

    def fork(self, sequence: int) -> int:
        """See `Executor.fork`."""
        kept, copy = self._sequence(sequence), self.open_sequence()
        kept.first(kept.length, self._sequences[copy])
        return copy

    def truncate(self, sequence: int, length: int) -> int:
        """See `Executor.truncate`; every length can be gone back to."""
        kept = self._sequence(sequence)
        return kept.first(length, kept).length

    def length(self, sequence: int) -> int:
        """Tokens that a sequence holds."""
        return self._sequence(sequence).length

    def reserve(self, sequence: int, tokens: int) -> bool:
        """There is always room."""
        return True

    def room(self) -> int:
        """There is always room."""
        return sys.maxsize

    def cost(self, tokens: int) -> int:
        """There is always room."""
        return 0

    def close(self) -> None:
        """There is nothing to release."""

    def forward(self, runs: Sequence[Run]) -> np.ndarray:
        """See `Executor.forward`."""
        with self._lock:
            check_runs(self.tape, runs, self.length)
            results = [self._forward(part) for part in pieces(runs, ROWS)]
            return np.concatenate(results).astype(np.float32)

    def _forward(self, runs: Sequence[Run]) -> np.ndarray:
        batch = Batch(runs, self._sequences)
        buffers: dict[Buffer, np.ndarray] = {}
        for op in self.tape.ops:
            self._execute(op, batch, buffers)
        for run in runs:
            self._sequences[run.sequence].length += len(run.tokens)
        return buffers[self.tape.logits]

    def _execute(self, op: Op, batch: Batch, buffers: dict[Buffer, np.ndarray]) -> None:
        if isinstance(op, Embed):
            buffers[op.out] = self._weight(op.table).effective()[batch.tokens].astype(np.float64)
        elif isinstance(op, Norm):
            x = buffers[op.source]
            rms = np.sqrt(np.mean(x**2, axis=1, keepdims=True) + op.epsilon)
            buffers[op.out] = x / rms * self._weight(op.weight).numbers
        elif isinstance(op, Linear):
            self._linear(op, buffers)
        elif isinstance(op, Rope):
            buffers[op.buffer] = rotate(buffers[op.buffer], op.heads, batch.positions, self.tape)
        elif isinstance(op, StoreKV):
            self._store(op, batch, buffers)
        elif isinstance(op, Attention):
            self._attend(op, batch, buffers)
        elif isinstance(op, Gate):
            gate = buffers[op.gate]
            buffers[op.out] = gate / (1 + np.exp(-np.clip(gate, -700, None))) * buffers[op.up]
        elif isinstance(op, Select):
            buffers[op.out] = buffers[op.source][batch.wanted]

    def _linear(self, op: Linear, buffers: dict[Buffer, np.ndarray]) -> None:
        for role, bias, out in zip(op.weights, op.biases, op.outs, strict=True):
            weight = self._weight(role)
            x, numbers = weight.transformed(buffers[op.source]), weight.numbers
            many = self.bf16_from is not None and len(x) >= self.bf16_from
            if self.activations == "int8" and many and weight.scheme.value != "f32":
                x, numbers = round_bf16(x), round_bf16(numbers)
            elif self.activations == "int8" and weight.scheme.kind != "float":
                x = round_for(weight, x)
            result = x @ numbers.astype(np.float64).T
            if bias is not None:
                result += self._weight(bias).numbers
            buffers[out] = buffers[out] + result if op.add else result

    def _store(self, op: StoreKV, batch: Batch, buffers: dict[Buffer, np.ndarray]) -> None:
        shape = (-1, self.tape.kv_heads, self.tape.head_dim)
        for cache, rows in batch.sequences:
            for store, buffer in ((cache.keys, op.key), (cache.values, op.value)):
                rounded = buffers[buffer][rows].reshape(shape).astype(np.float32).astype(self.cache_type)
                store[op.layer] = np.concatenate([store[op.layer], rounded.astype(np.float64)])

    def _attend(self, op: Attention, batch: Batch, buffers: dict[Buffer, np.ndarray]) -> None:
        tape, out = self.tape, np.zeros_like(buffers[op.query])
        shared = tape.heads // tape.kv_heads  # consecutive query heads share a key-value head
        for cache, rows in batch.sequences:
            query = buffers[op.query][rows].reshape(-1, tape.heads, tape.head_dim)
            keys, values = cache.keys[op.layer], cache.values[op.layer]
            later = np.arange(len(keys))[None, :] > batch.positions[rows][:, None]
            for head in range(tape.heads):
                columns = slice(head * tape.head_dim, (head + 1) * tape.head_dim)
                scores = query[:, head] @ keys[:, head // shared].T * op.scale
                scores[later] = -np.inf
                weights = np.exp(scores - scores.max(axis=1, keepdims=True))
                out[rows, columns] = weights / weights.sum(axis=1, keepdims=True) @ values[:, head // shared]
        buffers[op.out] = out

    def _weight(self, role: str) -> StoredWeight:
        if role not in self._weights:
            self._weights[role] = StoredWeight(*self._source(role))
        return self._weights[role]

    def _sequence(self, sequence: int) -> Cache:
        if sequence not in self._sequences:
            raise UsageError(f"sequence {sequence} is not open")
        return self._sequences[sequence]


class Batch:
    """The rows of one pass: token, position and sequence of each, and which rows' logits are wanted."""

    def __init__(self, runs: Sequence[Run], caches: dict[int, Cache]) -> None:
        starts = np.cumsum([0] + [len(run.tokens) for run in runs])
        self.tokens = np.concatenate([run.tokens for run in runs])
        self.positions = np.concatenate([caches[run.sequence].length + np.arange(len(run.tokens)) for run in runs])
        self.sequences = [
            (caches[run.sequence], slice(int(first), int(last)))
            for run, first, last in zip(runs, starts[:-1], starts[1:], strict=True)
        ]
        self.wanted = wanted_rows(runs)


def round_for(weight: StoredWeight, x: np.ndarray) -> np.ndarray:
    """Transformed inputs rounded to int8 as a matrix asks for (spec/metadata.md, M-11)."""
    if weight.activations == "static":
        return round_activations(x, x.shape[1], np.float32(weight.activation_step * 127))
    return round_activations(x, x.shape[1] if weight.activations == "token" else activation_group(weight.scheme))


def round_activations(x: np.ndarray, group: int, largest: np.float32 | np.ndarray | None = None) -> np.ndarray:
    """Each row rounded to int8 per `group` columns, as float64 numbers; the arithmetic up to the codes is float32's.

    Args:
        x: (rows, columns).
        group: Columns that share a scale; the last group may be shorter.
        largest: The magnitude that becomes code 127, what is larger too; by default the largest of each group.
    """
    rows, columns = x.shape
    groups = -(-columns // group)
    padded = np.zeros((rows, groups, group), dtype=np.float32)
    padded.reshape(rows, groups * group)[:, :columns] = x
    if largest is None:
        largest = np.abs(padded).max(axis=2, keepdims=True)
    inverse = np.where(largest < TINY, np.float32(0), np.float32(127) / np.maximum(largest, TINY))
    codes = np.clip(np.rint(padded * inverse), -127, 127)
    rounded: np.ndarray = codes.astype(np.float64) * (largest / np.float32(127))
    return rounded.reshape(rows, groups * group)[:, :columns]


def round_bf16(x: np.ndarray) -> np.ndarray:
    """Numbers rounded to float32 and then to bf16, as float32."""
    return to_float32(from_float32(x.astype(np.float32), "bf16"), "bf16")


def rotate(x: np.ndarray, heads: int, positions: np.ndarray, tape: Tape) -> np.ndarray:
    """Each head's pairs turned by position times frequency."""
    angles = (positions[:, None] * tape.frequencies)[:, None, :]
    cosine, sine = np.cos(angles), np.sin(angles)
    split = x.reshape(len(x), heads, 2, -1) if tape.rope_layout == "half" else x.reshape(len(x), heads, -1, 2)
    axis = 2 if tape.rope_layout == "half" else 3
    first, second = np.take(split, 0, axis), np.take(split, 1, axis)
    turned = np.stack([first * cosine - second * sine, second * cosine + first * sine], axis)
    return turned.reshape(x.shape)
