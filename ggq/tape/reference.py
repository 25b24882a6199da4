"""A program in plain NumPy, slowly and obviously: the oracle for every other executor."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ggq.errors import UnsupportedError, UsageError
from ggq.format.scheme import Scheme
from ggq.quant.floats import from_float32, to_float32
from ggq.quant.stored import StoredWeight, activation_group
from ggq.tape.buffers import Buffer
from ggq.tape.caches import KeyValueSpec, StateSpec
from ggq.tape.executor import check_runs, pieces, wanted_rows
from ggq.tape.ops.operation import Product
from ggq.tape.program import Program, Run
from ggq.tape.rotation import Rotation

ReadStored = Callable[[str], StoredWeight | tuple[Scheme, np.ndarray]]
"""The tensor with a role; its scheme and its numbers alone where nothing is done to its inputs."""

ROWS = 256
"""Tokens at a time; bounds the score matrices and changes no result."""

STATES = 8
"""Earlier states that a sequence keeps."""

TINY = np.float32(1e-36)
"""Groups of activations below this are rounded to zero: 127 over less would not be finite."""

CACHE_TYPES: dict[str, type[np.floating]] = {"f16": np.float16, "f32": np.float32}


class KeyValueCache:
    """Keys and values of one sequence in one cache of the program.

    Args:
        spec: Its sizes. Positions that a window has passed are kept: the oracle has room.
        kind: Float type that they are rounded to.
    """

    def __init__(self, spec: KeyValueSpec, kind: type[np.floating]) -> None:
        self.kind, shape = kind, (0, spec.kv_heads, spec.head_dim)
        self.keys, self.values = np.zeros(shape), np.zeros(shape)

    @property
    def length(self) -> int:
        """Positions that it holds."""
        return len(self.keys)

    def append(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Add rows of (rows, kv_heads * head_dim) numbers."""
        self.keys, self.values = self._with(self.keys, keys), self._with(self.values, values)

    def _with(self, known: np.ndarray, more: np.ndarray) -> np.ndarray:
        rounded = more.reshape(-1, *known.shape[1:]).astype(np.float32).astype(self.kind)
        return np.concatenate([known, rounded.astype(np.float64)])


class StateCache:
    """A state of one sequence, and some of what it was before.

    Args:
        spec: Its shape.
    """

    def __init__(self, spec: StateSpec) -> None:
        self.numbers, self.length = np.zeros(spec.shape), 0
        self.kept: tuple[tuple[int, np.ndarray], ...] = ()  # before and behind runs of several tokens
        self._several = False

    def carry(self, numbers: np.ndarray, tokens: int) -> None:
        """Replace the numbers by those after so many more tokens."""
        if tokens > 1 or self._several:
            self.kept = (*self.kept[1 - STATES :], (self.length, self.numbers))
        self.numbers, self.length, self._several = numbers, self.length + tokens, tokens > 1

    def before(self, length: int) -> int:
        """The last length, up to this one, that can be gone back to."""
        return max((each for each, _ in (*self.kept, (self.length, None)) if each <= length), default=0)

    def first(self, length: int, copy: StateCache) -> None:
        """The state after so many tokens, which can be gone back to, in `copy`."""
        known = {0: np.zeros_like(self.numbers), **dict(self.kept), self.length: self.numbers}
        copy.kept = tuple(each for each in self.kept if each[0] < length)
        copy.numbers, copy.length, copy._several = known[length], length, True


class Kept:
    """What one sequence keeps, cache by cache, and how many tokens it covers."""

    def __init__(self, program: Program, kind: type[np.floating]) -> None:
        self.length, self.long = 0, False
        self.caches = [
            StateCache(spec) if isinstance(spec, StateSpec) else KeyValueCache(spec, kind) for spec in program.caches
        ]

    def first(self, length: int, copy: Kept) -> Kept:
        """The first tokens of this sequence, or fewer where states cannot be gone back to, in `copy`; arrays are
        shared, as nothing writes into them."""
        states = [cache for cache in self.caches if isinstance(cache, StateCache)]
        copy.length = min([min(length, self.length), *(state.before(length) for state in states)])
        copy.long = self.long
        for mine, other in zip(self.caches, copy.caches, strict=True):
            if isinstance(mine, StateCache):
                assert isinstance(other, StateCache)
                mine.first(copy.length, other)
            else:
                assert isinstance(other, KeyValueCache)
                other.keys, other.values = mine.keys[: copy.length], mine.values[: copy.length]
        return copy


class NumpyExecutor:
    """Walks a program in float64; only int8 activations and the cache are rounded, exactly as the kernels round them.

    Args:
        program: The model.
        stored: Where its tensors come from; each is asked for once.
        activations: "int8" rounds the source of a quantized matrix as that matrix asks for, after its transform and per
            activation group unless told otherwise; "float32" rounds nothing.
        cache: Float type that keys and values are rounded to, "f16" or "f32".

    Attributes:
        bf16_from: From how many rows on products with "int8" activations take source and weights rounded to bf16
            instead, as the kernels do where the processor has tiles of bf16; None for never.
    """

    def __init__(self, program: Program, stored: ReadStored, activations: str = "int8", cache: str = "f16") -> None:
        if activations not in ("int8", "float32"):
            raise UsageError(f"activations must be int8 or float32, not {activations!r}")
        if cache not in CACHE_TYPES:
            raise UsageError(f"the cache must be f16 or f32, not {cache!r}")
        self.program, self.activations, self.cache_type = program, activations, CACHE_TYPES[cache]
        self.bf16_from: int | None = None
        self._source = stored
        self._weights: dict[str, StoredWeight] = {}
        self._sequences: dict[int, Kept] = {}
        self._opened = 0
        self._lock = threading.Lock()

    def open_sequence(self) -> int:
        """The id of a new, empty sequence."""
        self._opened += 1
        self._sequences[self._opened] = Kept(self.program, self.cache_type)
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
        """See `Executor.truncate`; every length can be gone back to where there are no states."""
        kept = self._sequence(sequence)
        return kept.first(length, kept).length

    def length(self, sequence: int) -> int:
        """Tokens that a sequence holds."""
        return self._sequence(sequence).length

    def serves(self, sequence: int, total: int) -> bool:
        """See `Executor.serves`."""
        kept = self._sequence(sequence)
        return not kept.length or kept.long == self.program.inputs.is_long(total)

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
            check_runs(self, runs)
            for run in runs:
                kept = self._sequences[run.sequence]
                kept.long = self.program.inputs.is_long(max(kept.length + len(run.tokens), run.total))
            results = [self._forward(part) for part in pieces(runs, ROWS, whole=self.program.whole_texts)]
            return np.concatenate(results).astype(np.float32)

    def _forward(self, runs: Sequence[Run]) -> np.ndarray:
        batch = Batch(runs, self._sequences, self.stored, self.activations, self.bf16_from)
        for op in self.program.ops:
            op.oracle(batch)
        for run in runs:
            self._sequences[run.sequence].length += len(run.tokens)
        return batch[self.program.result]

    def first_not_finite(self, tokens: Sequence[int]) -> tuple[str, str] | None:
        """See `ggq.engine.numba_executor.NumbaExecutor.first_not_finite`."""
        sequence = self.open_sequence()
        with self._lock, np.errstate(all="ignore"):
            try:
                runs = [Run(sequence, np.asarray(tokens, np.int32), "last")]
                self._sequences[sequence].long = self.program.inputs.is_long(len(tokens))
                batch = Batch(runs, self._sequences, self.stored, self.activations, self.bf16_from)
                for op in self.program.ops:
                    op.oracle(batch)
                    if not all(np.isfinite(batch[buffer]).all() for buffer in op.writes()):
                        caches = [f"layer {cache}" for cache in op.caches_read()]
                        return op.name, " ".join([*op.weights_read(), *caches]) or op.writes()[0].name
            finally:
                self.close_sequence(sequence)
        return None

    def stored(self, role: str) -> StoredWeight:
        """A tensor as it is stored."""
        if role not in self._weights:
            self._weights[role] = StoredWeight(*self._source(role))
        return self._weights[role]

    def _sequence(self, sequence: int) -> Kept:
        if sequence not in self._sequences:
            raise UsageError(f"sequence {sequence} is not open")
        return self._sequences[sequence]


class Batch:
    """The rows of one pass; see `ggq.tape.passes.Oracle`.

    Args:
        runs: Consecutive tokens of sequences.
        kept: What the sequences keep, by their ids.
        stored: Where tensors come from.
        activations: "int8" or "float32".
        bf16_from: See `NumpyExecutor`.
    """

    xp = np

    def __init__(
        self,
        runs: Sequence[Run],
        kept: dict[int, Kept],
        stored: Callable[[str], StoredWeight],
        activations: str,
        bf16_from: int | None = None,
    ) -> None:
        starts = np.cumsum([0] + [len(run.tokens) for run in runs])
        self.tokens = np.concatenate([run.tokens for run in runs])
        self.positions = np.concatenate([kept[run.sequence].length + np.arange(len(run.tokens)) for run in runs])
        self.types = np.concatenate([run.types_of_all() for run in runs])
        self._long = np.repeat([kept[run.sequence].long for run in runs], [len(run.tokens) for run in runs])
        self.wanted = wanted_rows(runs)
        self.stored, self._int8, self._bf16_from = stored, activations == "int8", bf16_from
        self._sequences = [
            (kept[run.sequence], slice(int(first), int(last)))
            for run, first, last in zip(runs, starts[:-1], starts[1:], strict=True)
        ]
        self._values: dict[Buffer, np.ndarray] = {}
        self._tables: dict[Rotation, tuple[np.ndarray, np.ndarray]] = {}

    def __getitem__(self, buffer: Buffer) -> np.ndarray:
        return self._values[buffer]

    def __setitem__(self, buffer: Buffer, value: np.ndarray) -> None:
        self._values[buffer] = value

    def ids(self, by: str) -> np.ndarray:
        """See `Forward`."""
        return {"token": self.tokens, "position": self.positions, "type": self.types}[by]

    def weight(self, role: str) -> np.ndarray:
        """See `Forward`."""
        return self.stored(role).numbers

    def rounded(self, weight: StoredWeight, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Oracle`."""
        x, numbers = weight.transformed(x), weight.numbers
        many = self._bf16_from is not None and len(x) >= self._bf16_from
        if self._int8 and many and weight.scheme.value != "f32":
            return round_bf16(x), round_bf16(numbers)
        if self._int8 and weight.scheme.kind != "float":
            x = round_for(weight, x)
        return x, numbers

    def sequences(self, cache: int) -> list[tuple[Any, slice]]:
        """See `Oracle`."""
        return [(kept.caches[cache], rows) for kept, rows in self._sequences]

    def inner(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """See `Forward`."""
        return np.asarray((x * y).sum(axis=-1, keepdims=True))

    def observe(self, product: Product, source: np.ndarray) -> None:
        """Nobody is told."""

    def useful(self, buffer: Buffer) -> bool:
        """Everything is computed."""
        return True

    def rotation(self, rotation: Rotation) -> tuple[np.ndarray, np.ndarray]:
        """See `Forward`."""
        if rotation not in self._tables:
            self._tables[rotation] = rotation.table(self.positions, self._long)
        return self._tables[rotation]

    def mask(self, window: int, causal: bool = True) -> np.ndarray:
        """Refused: rows of a batch belong to several sequences, so such an operation needs an oracle of its own."""
        raise UnsupportedError("an operation over whole texts has no oracle of its own")

    def store(self, cache: int, values: Sequence[np.ndarray]) -> None:
        """Refused; see `mask`."""
        raise UnsupportedError("an operation over whole texts has no oracle of its own")

    def cached(self, cache: int) -> Sequence[np.ndarray]:
        """Refused; see `mask`."""
        raise UnsupportedError("an operation over whole texts has no oracle of its own")


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
