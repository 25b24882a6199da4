"""What emitting an operation needs: addresses of buffers and weights, and the memory that describes a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ggq.engine.batch import Batch
from ggq.engine.lower.ops import Rounded
from ggq.engine.memory import rows_of
from ggq.engine.weights import Weights
from ggq.tape.caches import CacheGroup, CacheSpec, groups, state_numbers
from ggq.tape.program import Buffer

if TYPE_CHECKING:
    from ggq_kernels.run.calls import Heads, Int8Rows, Rows, StateRuns


@dataclass(frozen=True)
class Step:
    """What one row of a bound program does.

    Args:
        kind: "linear", "quantize", "norm" ...
        label: What it does it to: the roles of the matrices, the buffer.
        rows: Rows it goes through: "tokens" or "wanted".
        weight_bytes: Bytes of weights that it reads, once for the whole batch.
        operations: Multiplications and additions of its matrices for each row.
    """

    kind: str
    label: str
    rows: str
    weight_bytes: int = 0
    operations: int = 0


@dataclass
class Context:
    """Addresses for the emitters; what it allocates lives as long as it does.

    Args:
        calls: The module that makes rows, `ggq_kernels.run.calls`.
        weights: The model's tensors.
        batch: Where the kernels find the batch.
        caches: The program's.
        capacity: Most rows of a batch, by the `rows` of a buffer: "tokens", "wanted".
        cache: "f16" or "f32".
        threads: Of the team, to size the shares of work.
        bf16: Whether many tokens are rounded to bf16.
        widths: Padded columns of each buffer of floats, by name.
        memory: Number of each buffer's memory, for the operation that is emitted now.
    """

    calls: Any
    weights: Weights
    batch: Batch
    caches: Sequence[CacheSpec]
    capacity: Mapping[str, int]
    cache: str
    threads: int
    bf16: bool
    widths: Mapping[str, int]
    memory: Mapping[Buffer, int] = field(default_factory=dict)
    kept: list[np.ndarray] = field(default_factory=list)
    tables: dict[int, np.ndarray] = field(default_factory=dict)
    """What rows of products point to, by address."""
    arrays: dict[int, np.ndarray] = field(default_factory=dict)
    _places: dict[int, Rows | Int8Rows] = field(default_factory=dict)
    _lists: dict[int, int] = field(default_factory=dict)

    def floats(self, buffer: Buffer) -> Rows:
        """The memory of a buffer of floats."""
        number = self.memory[buffer]
        if number not in self._places:
            stride = self._columns(buffer)
            memory = self.allocate(self._rows(buffer) * stride * 4)
            self.arrays[number] = self.kept[-1].view(np.float32).reshape(-1, stride)
            self._places[number] = self.calls.Rows(memory, stride * 4, buffer.width)
        place: Rows = self._places[number]  # type: ignore[assignment]
        return place

    def rounded(self, buffer: Rounded) -> Int8Rows:
        """The memory of a buffer that is rounded to int8, which many tokens rounded to bf16 take too."""
        number = self.memory[buffer]
        if number not in self._places:
            rows, columns, group = self._rows(buffer), buffer.columns, buffer.group
            codes = self.allocate(max(rows * columns, self.calls.bf16_bytes(rows, columns) if self.bf16 else 0))
            scales, offsets, sums = (self.allocate(rows * columns // group * 4) for _ in range(3))
            bf16 = codes if self.bf16 else 0
            self._places[number] = self.calls.Int8Rows(codes, scales, offsets, sums, columns, group, bf16)
        place: Int8Rows = self._places[number]  # type: ignore[assignment]
        return place

    def source(self, buffer: Buffer) -> Rows | Int8Rows:
        """What a product reads, rounded or not."""
        return self.rounded(buffer) if isinstance(buffer, Rounded) and buffer.group else self.floats(buffer)

    def halves(self, buffer: Rounded) -> int:
        """Address of the bf16 form of many tokens."""
        number = self.memory[buffer]
        if number not in self._places:
            size = self.calls.bf16_bytes(self.capacity[rows_of(buffer)], buffer.columns)
            self._places[number] = self.calls.Rows(self.allocate(size), 0, buffer.columns)
        place: Rows = self._places[number]  # type: ignore[assignment]
        return place.address

    def allocate(self, size: int) -> int:
        """Address of so many zeroed bytes."""
        from ggq_kernels.run.threads import aligned_zeros

        self.kept.append(aligned_zeros(size))
        return int(self.kept[-1].ctypes.data)

    def number(self, x: float) -> int:
        """Address of a float64."""
        self.kept.append(np.array([x], np.float64))
        return int(self.kept[-1].ctypes.data)

    def tokens(self, buffer: Buffer) -> int:
        """Address of the number of a buffer's rows in use."""
        return self.batch.count(buffer.rows)

    def rows_of_experts(self, experts: int) -> tuple[int, int]:
        """Address of the numbers of the rows that go through each of so many experts, and the bytes of an expert; one
        layer uses it after the other."""
        size = 8 * max(self.capacity.values())
        if experts not in self._lists:
            self._lists[experts] = self.allocate(size * experts)
        return self._lists[experts], size

    def group_of(self, cache: int) -> int:
        """The group that a cache belongs to."""
        return next(i for i, group in enumerate(self._groups) if cache in group.members)

    @cached_property
    def _groups(self) -> tuple[CacheGroup, ...]:
        return groups(self.caches)

    def heads(self, cache: int, heads: int = 0) -> Heads:
        """Sizes of a cache, by default with as many heads as it has, and where in a page of its group it begins."""
        group = self._groups[self.group_of(cache)]
        spec, members = group.spec, group.members
        before = self.calls.layer_bytes(self.cache, spec.kv_heads, spec.head_dim) * members.index(cache)
        found: Heads = self.calls.Heads(heads or spec.kv_heads, spec.kv_heads, spec.head_dim, before)
        return found

    def runs(self, state: int) -> StateRuns:
        """Where kernels find the runs of a batch, and where among all states of a sequence one begins."""
        count, words = self.batch.count("runs"), int(self.batch.states.ctypes.data)
        before = 4 * state_numbers(self.caches[:state], self.calls.LANES)
        found: StateRuns = self.calls.StateRuns(count, words, before)
        return found

    def _rows(self, buffer: Buffer) -> int:
        return int(self.capacity[rows_of(buffer)] + self.calls.MOST_ROWS)

    def _columns(self, buffer: Buffer) -> int:
        return buffer.columns if isinstance(buffer, Rounded) else self.widths[buffer.name]
