"""Binding a tape to memory: buffers, weights and scratch get addresses, and every operation becomes rows for its
kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ggq.errors import FormatError, UnsupportedError
from ggq.format import Reader
from ggq.format.scheme import TABLE_LIMITS, Geometry, Scheme, round_up
from ggq.quant.matrix import middle, subscale_offset
from ggq.quant.stored import activation_form, activation_group
from ggq.quant.transform import checked_order
from ggq.tape.caches import groups
from ggq.tape.ops import Attention, Embed, Gate, Linear, Norm, Operation, Rope, Select, StoreKV
from ggq.tape.program import Buffer, Program
from ggq.tape.rotation import Rotation

if TYPE_CHECKING:
    from ggq_kernels.run.calls import Heads, Int8Rows, Packed, Rows


@dataclass(frozen=True)
class Step:
    """What one row of a bound tape does.

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


RUN_WORDS = 5
"""Words of one run, as attention reads them: first row, tokens, tokens before them, page table, jobs before it."""

COLUMN_PADDING = 128
"""Buffers' rows are padded to this many columns: the largest activation group."""


class Weights:
    """The tensors of a file by role, as addresses into its memory map.

    Args:
        reader: The open file; it must stay open.
        names: Tensor names by role.
    """

    def __init__(self, reader: Reader, names: dict[str, str]) -> None:
        self._reader, self._names = reader, names
        self._kept: dict[str, np.ndarray] = {}

    def scheme(self, role: str) -> Scheme:
        """How a tensor is stored."""
        scheme = self._reader.tensors[self._names[role]].scheme
        assert scheme is not None  # whoever made `names` has refused unknown schemes
        return scheme

    def sizes(self, role: str) -> Geometry:
        """Sizes of a tensor, as given and as stored."""
        return self.scheme(role).geometry(self._reader.tensors[self._names[role]].shape)

    def matrix(self, role: str) -> Packed:
        """A matrix as the kernels see it.

        Raises:
            UnsupportedError: A scheme that no kernel multiplies.
            FormatError: An order of columns that points outside.
        """
        from ggq_kernels.run.calls import Packed

        entry, scheme, sizes = self._reader.tensors[self._names[role]], self.scheme(role), self.sizes(role)
        addresses = {name: self._address(role, name) for name in entry.segments}
        if scheme.kind == "float":
            return Packed(scheme.value, 0, sizes.padded_rows, sizes.columns, 0, addresses["values"])
        group = activation_group(scheme)
        if sizes.group % group or group % 32:
            problem = f"no kernel multiplies groups of {sizes.group} columns"
            fix = "convert it to groups of 32, 64, 128 or a row"
            raise UnsupportedError(problem, path=self._reader.path, where=f"tensor {entry.name}", fix=fix)
        activations, step = activation_form(self._reader, entry)
        if "input_order" in entry.segments:  # kernels read where it says, so its padding is looked at too
            order = self._reader.segment(entry.name, "input_order").view("<u4")
            try:
                checked_order(order, sizes.columns)
                checked_order(order, sizes.padded_columns)
            except FormatError as error:
                raise FormatError(error.problem, path=self._reader.path, where=f"tensor {entry.name}") from None
        return Packed(
            value="",
            bits=scheme.bits,
            rows=sizes.padded_rows,
            columns=sizes.padded_columns,
            group=sizes.group,
            codes=addresses["codes"],
            scales=addresses["scales"],
            middle=middle_number(scheme),
            zeros=addresses.get("zeros", 0),
            minimums=addresses.get("minimums", 0),
            sub_bits=scheme.subscale,
            sub_scales=addresses.get("subscales", 0),
            sub_minimums=addresses.get("subminimums", 0),
            sub_lowest=subscale_offset(scheme) if scheme.subscale else 0,
            table=self._table(role) if scheme.kind == "codebook" else 0,
            order=addresses.get("input_order", 0),
            column_scale=addresses.get("input_scale", 0),
            activations=activations,
            activation_step=step,
        )

    def _table(self, role: str) -> int:
        """Address of a codebook's entries less the least possible one, as 16 unsigned bytes."""
        key = f"{role}/table"
        if key not in self._kept:  # once: rows of the tape hold the address
            entries = self._reader.segment(self._names[role], "codebook").view(np.int8)
            self._kept[key] = np.zeros(16, np.uint8)
            self._kept[key][: entries.size] = entries.astype(np.int16) - TABLE_LIMITS[0]
        return int(self._kept[key].ctypes.data)

    def vector(self, role: str) -> int:
        """Address of a one-dimensional tensor as float32, padded with zeros to whole register tiles."""
        if role not in self._kept:
            from ggq.quant import decode_tensor

            entry = self._reader.tensors[self._names[role]]
            segments = {name: self._reader.segment(entry.name, name) for name in entry.segments}
            padded = np.zeros(round_up(entry.shape[0], COLUMN_PADDING), np.float32)
            padded[: entry.shape[0]] = decode_tensor(self.scheme(role), entry.shape, segments)
            self._kept[role] = padded
        return int(self._kept[role].ctypes.data)

    def _address(self, role: str, segment: str) -> int:
        view = self._reader.segment(self._names[role], segment)
        self._kept[f"{role}/{segment}"] = view
        return int(view.ctypes.data)


def middle_number(scheme: Scheme) -> float:
    """What is subtracted from the numbers of a scheme without zero-points and minimums (kernels' planes.py)."""
    if scheme.kind == "codebook":
        return float(-TABLE_LIMITS[0])
    return float(middle(scheme)) if scheme.kind == "uniform" else 1.0


class Batch:
    """Memory of one batch: counts, token ids, positions and page tables by token, wanted rows, runs.

    Args:
        rows: Most tokens of a batch.
    """

    def __init__(self, rows: int) -> None:
        self.counts = np.zeros(3, np.int64)  # tokens, wanted rows, runs
        self.ids, self.positions, self.wanted = (np.zeros(rows, np.int64) for _ in range(3))
        self.tables: dict[int, np.ndarray] = {}  # by group of caches
        self.runs: dict[tuple[int, int, int], np.ndarray] = {}  # by group, heads and kv_heads of attention
        self.rope_tables: dict[Rotation, np.ndarray] = {}

    def count(self, which: str) -> int:
        """Address of a count: "tokens", "wanted" or "runs"."""
        return int(self.counts.ctypes.data) + 8 * ("tokens", "wanted", "runs").index(which)


class Binder:
    """Makes the rows of a tape; what it allocates lives as long as it does.

    Args:
        program: The model.
        weights: Its tensors.
        batch: Where the kernels find the batch.
        rows: Most tokens of a batch, by the `rows` of a buffer: "tokens", "wanted".
        activations: "int8" or "float32".
        cache: "f16" or "f32".
        threads: Of the team, to size the shares of work.
    """

    def __init__(
        self,
        program: Program,
        weights: Weights,
        batch: Batch,
        rows: dict[str, int],
        activations: str,
        cache: str,
        threads: int,
    ) -> None:
        from ggq_kernels.run import calls

        self._calls, self._program, self._weights, self._batch = calls, program, weights, batch
        self._capacity, self._int8, self._cache, self._threads = rows, activations == "int8", cache, threads
        self._bf16 = self._int8 and calls.bf16_from() < calls.EVERY
        self.kept: list[np.ndarray] = []
        self._buffers: dict[str, Rows] = {}
        self._scratch: dict[tuple[object, ...], Rows | Int8Rows] = {}
        self._fresh: set[tuple[object, ...]] = set()
        self._gates: dict[str, Gate] = {}
        self._behind: tuple[Operation, ...] = ()
        self._widths = self._buffer_widths()
        self.rows: list[np.ndarray] = []
        self.steps: list[Step] = []

    def bind(self) -> np.ndarray:
        """int64 (rows, 32): all rows of the program."""
        makers: dict[type, Callable[..., None]] = {
            Embed: self._embed,
            Norm: self._norm,
            Linear: self._linear,
            Rope: self._rope,
            StoreKV: self._store,
            Attention: self._attention,
            Gate: self._gate,
            Select: self._select,
        }
        with self._calls.addresses_later() as kernels:
            for place, op in enumerate(self._program.ops):
                self._behind = self._program.ops[place + 1 :]
                makers[type(op)](op)
        tape = np.ascontiguousarray(np.stack(self.rows))
        self._calls.link(tape, kernels)
        return tape

    def buffer(self, buffer: Buffer) -> Rows:
        """The memory of a buffer."""
        if buffer.name not in self._buffers:
            rows = self._capacity[buffer.rows] + self._calls.MOST_ROWS
            stride = self._widths[buffer.name]
            memory = self._allocate(rows * stride * 4)
            self._buffers[buffer.name] = self._calls.Rows(memory, stride * 4, buffer.width)
        return self._buffers[buffer.name]

    def array(self, buffer: Buffer) -> np.ndarray:
        """The memory of a buffer as float32 (rows, width)."""
        rows = self.buffer(buffer)
        memory = next(kept for kept in self.kept if kept.ctypes.data == rows.address)
        return memory.view(np.float32).reshape(-1, rows.stride // 4)[:, : rows.width]

    def _buffer_widths(self) -> dict[str, int]:
        """Columns of each buffer, padded so that every matrix that reads it finds zeros beyond its width, also where it
        reads a gate's sources."""
        widths: dict[str, int] = {}
        for op in self._program.ops:
            for buffer in op.buffers():
                widths.setdefault(buffer.name, round_up(buffer.width, COLUMN_PADDING))
            if isinstance(op, Linear):
                columns = max(self._weights.matrix(role).columns for role in op.weights)
                widths[op.source.name] = max(widths[op.source.name], columns)
        for op in self._program.ops:
            if isinstance(op, Gate):
                for source in (op.gate, op.up):
                    widths[source.name] = max(widths[source.name], widths[op.out.name])
        return widths

    def _allocate(self, size: int) -> int:
        from ggq_kernels.run.threads import aligned_zeros

        self.kept.append(aligned_zeros(size))
        return int(self.kept[-1].ctypes.data)

    def _number(self, x: float) -> int:
        self.kept.append(np.array([x], np.float64))
        return int(self.kept[-1].ctypes.data)

    def _stale(self, written: tuple[Buffer, ...]) -> None:
        names = {buffer.name for buffer in written}
        self._fresh = {key for key in self._fresh if key[0] not in names}

    def _emit(self, step: Step, row: np.ndarray, *written: Buffer) -> None:
        self.rows.append(row)
        self.steps.append(step)
        self._stale(written)

    def _tokens(self, buffer: Buffer) -> int:
        return self._batch.count(buffer.rows)

    def _embed(self, op: Embed) -> None:
        ids, matrix = int(self._batch.ids.ctypes.data), self._weights.matrix(op.table)
        self.kept.append(matrix.descriptor())
        row = self._calls.embed_row(self._tokens(op.out), ids, matrix, self.kept[-1], self.buffer(op.out))
        self._emit(Step("embed", op.table, op.out.rows), row, op.out)

    def _norm(self, op: Norm) -> None:
        if op.kind != "rms":
            raise UnsupportedError(f"no kernel for the norm {op.kind!r}")
        if op.weight is None or op.bias is not None or op.heads != 1:
            raise UnsupportedError("no kernel for a norm without a weight, with a bias or of heads")
        weight, epsilon = self._weights.vector(op.weight), self._number(op.epsilon)
        row = self._calls.norm_row(self._tokens(op.out), self.buffer(op.source), self.buffer(op.out), weight, epsilon)
        self._emit(Step("norm", op.weight, op.out.rows), row, op.out)

    def _linear(self, op: Linear) -> None:
        matrices = [self._weights.matrix(role) for role in op.weights]
        for kind in dict.fromkeys(m.kind for m in matrices):  # one row for each scheme among them
            mine = [i for i, m in enumerate(matrices) if m.kind == kind]
            chosen, outs = [matrices[i] for i in mine], [self.buffer(op.outs[i]) for i in mine]
            biases = [0 if (bias := op.biases[i]) is None else self._weights.vector(bias) for i in mine]
            table = self._calls.descriptors(chosen, outs, biases)
            self.kept.append(table)
            scheme = self._weights.scheme(op.weights[mine[0]])
            source = self._source(op.source, scheme, chosen[0])
            tokens = self._tokens(op.source)
            row = self._calls.linear_row(tokens, chosen, table, source, op.add, self._threads)
            roles = [op.weights[i] for i in mine]
            self._emit(self._linear_step(roles, op.source.rows), row, *(op.outs[i] for i in mine))

    def _linear_step(self, roles: list[str], rows: str) -> Step:
        sizes = [self._weights.sizes(role) for role in roles]
        operations = sum(2 * geometry.rows * geometry.columns for geometry in sizes)
        return Step("linear", " ".join(roles), rows, sum(geometry.bytes for geometry in sizes), operations)

    def _source(self, buffer: Buffer, scheme: Scheme, matrix: Packed) -> Rows | Int8Rows:
        """The buffer itself, its transformed or its int8 form, made where it is not up to date."""
        piece = activation_group(scheme) if self._int8 else 0
        if self._bf16 and matrix.value in ("f16", "bf16"):
            return self._float_source(buffer, matrix)
        if not piece and not (matrix.order or matrix.column_scale):
            return self.buffer(buffer)
        key = (buffer.name, piece, matrix.columns, *matrix.source)
        if key not in self._scratch:
            rows = self._capacity[buffer.rows] + self._calls.MOST_ROWS
            if piece:
                # Tokens are rounded either to int8 or, many of them, to bf16, so that both have one place.
                codes = self._allocate(max(rows * matrix.columns, self._bf16_bytes(rows, matrix.columns)))
                scales, offsets, sums = (self._allocate(rows * matrix.columns // piece * 4) for _ in range(3))
                bf16 = codes if self._bf16 else 0
                self._scratch[key] = self._calls.Int8Rows(codes, scales, offsets, sums, matrix.columns, piece, bf16)
            else:
                stride = matrix.columns * 4
                self._scratch[key] = self._calls.Rows(self._allocate(rows * stride), stride, matrix.columns)
        made = self._scratch[key]
        if key not in self._fresh:
            tokens, gate = self._tokens(buffer), self._gates.get(buffer.name)
            if gate is not None:
                assert isinstance(made, self._calls.Int8Rows)
                kind, sources = "gate quantize", (self.buffer(gate.gate), self.buffer(gate.up))
                row = self._calls.quantize_row(tokens, sources[0], made, matrix, sources[1])
            elif isinstance(made, self._calls.Int8Rows):
                kind, row = "quantize", self._calls.quantize_row(tokens, self.buffer(buffer), made, matrix)
            else:
                kind, row = "transform", self._calls.transform_row(tokens, self.buffer(buffer), made, matrix)
            self._emit(Step(kind, buffer.name, buffer.rows), row)
            self._fresh.add(key)
        return made

    def _float_source(self, buffer: Buffer, matrix: Packed) -> Rows:
        """The buffer with its many tokens rounded to bf16, for a matrix of halves."""
        key, source = (buffer.name, matrix.columns), self.buffer(buffer)
        if key not in self._scratch:
            size = self._bf16_bytes(self._capacity[buffer.rows], matrix.columns)
            self._scratch[key] = replace(source, bf16=self._allocate(size))
        made = self._scratch[key]
        assert isinstance(made, self._calls.Rows)
        if key not in self._fresh:
            row = self._calls.round_row(self._tokens(buffer), made, matrix.columns)
            self._emit(Step("round", buffer.name, buffer.rows), row)
            self._fresh.add(key)
        return made

    def _bf16_bytes(self, rows: int, columns: int) -> int:
        return self._calls.bf16_bytes(rows, columns) if self._bf16 else 0

    def _only_rounded(self, gate: Gate) -> bool:
        """Whether a gate's result is read by nothing but the product behind it, which rounds it to int8 as it is, so
        that it need not be written as floats."""
        reader, *later = self._behind or (gate,)
        if not isinstance(reader, Linear) or reader.source != gate.out or gate.out == self._program.logits:
            return False
        matrices = [self._weights.matrix(role) for role in reader.weights]
        if not self._int8 or any(not m.bits or m.order or m.column_scale for m in matrices):
            return False
        following = next((op for op in later if gate.out in op.buffers()), None)
        return following is None or (isinstance(following, Gate) and following.out == gate.out)

    def _rope(self, op: Rope) -> None:
        cell = self._batch.rope_tables.setdefault(op.rotation, np.zeros(1, np.int64))
        table, positions = int(cell.ctypes.data), int(self._batch.positions.ctypes.data)
        tokens, buffer = self._tokens(op.buffer), self.buffer(op.buffer)
        row = self._calls.rope_row(tokens, buffer, op.heads, op.rotation.layout, table, positions)
        self._emit(Step("rope", op.buffer.name, op.buffer.rows), row, op.buffer)

    def _store(self, op: StoreKV) -> None:
        tokens, positions = self._tokens(op.key), self._batch.positions
        tables = self._batch.tables.setdefault(self._group(op.cache), np.zeros(len(positions), np.int64))
        key, value, sizes = self.buffer(op.key), self.buffer(op.value), self._heads(op.cache, 0)
        addresses = int(positions.ctypes.data), int(tables.ctypes.data)
        row = self._calls.store_kv_row(self._cache, tokens, key, value, sizes, *addresses)
        self._emit(Step("store", f"layer {op.cache}", op.key.rows), row)

    def _attention(self, op: Attention) -> None:
        scale = self._number(op.scale * math.log2(math.e))
        rows = np.zeros((len(self._batch.ids), RUN_WORDS), np.int64)
        described = self._batch.runs.setdefault((self._group(op.cache), op.heads, op.kv_heads), rows)
        runs, count = int(described.ctypes.data), self._batch.count("runs")
        query, out, sizes = self.buffer(op.query), self.buffer(op.out), self._heads(op.cache, op.heads)
        row = self._calls.attention_row(self._cache, count, runs, query, out, sizes, scale)
        self._emit(Step("attention", f"layer {op.cache}", op.query.rows), row, op.out)

    def _heads(self, cache: int, heads: int) -> Heads:
        """Sizes of a cache, and where in a page of its group it begins."""
        spec, members = self._program.caches[cache], groups(self._program.caches)[self._group(cache)].members
        bytes_before = self._calls.layer_bytes(self._cache, spec.kv_heads, spec.head_dim) * members.index(cache)
        return self._calls.Heads(heads or spec.kv_heads, spec.kv_heads, spec.head_dim, bytes_before)

    def _group(self, cache: int) -> int:
        return next(i for i, group in enumerate(groups(self._program.caches)) if cache in group.members)

    def _gate(self, op: Gate) -> None:
        if op.activation != "silu":
            raise UnsupportedError(f"no kernel for the activation {op.activation!r}")
        if self._only_rounded(op):
            self._gates[op.out.name] = op
            self._stale((op.out,))
            return
        self._gates.pop(op.out.name, None)
        gate, up, out = (self.buffer(b) for b in (op.gate, op.up, op.out))
        row = self._calls.gate_row(self._tokens(op.out), gate, up, out)
        self._emit(Step("gate", op.out.name, op.out.rows), row, op.out)

    def _select(self, op: Select) -> None:
        rows, source, out = int(self._batch.wanted.ctypes.data), self.buffer(op.source), self.buffer(op.out)
        row = self._calls.select_row(self._batch.count("wanted"), source, out, rows)
        self._emit(Step("select", op.out.name, op.out.rows), row, op.out)
