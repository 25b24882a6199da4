"""A program on compiled kernels: one call for each batch of tokens, whatever the depth of the model."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ggq.engine.batch import Batch
from ggq.engine.bind import bind
from ggq.engine.emit import Step
from ggq.engine.footprint import usable_memory
from ggq.engine.kv.policy import border
from ggq.engine.kv.pool import PagePool, PoolFull
from ggq.engine.kv.sequence import PagedSequence, cost
from ggq.engine.lower.experts import with_widest_expert
from ggq.engine.memory import batch_rows
from ggq.engine.weights import Weights
from ggq.errors import FormatError, UsageError
from ggq.format.container import Container
from ggq.tape.caches import groups, state_numbers
from ggq.tape.executor import check_runs, pieces, wanted_count, wanted_rows
from ggq.tape.program import Program, Run
from ggq.tape.rotation import Rotation

LOGIT_BYTES = 32 << 20
"""Memory for the logits of one batch; more wanted rows are computed in several."""
ROPE_STEP = 1024
"""Positions by which the table of cosines and sines grows."""


def stored_bytes(container: Container) -> int:
    """Bytes of all tensors of a file."""
    return sum(part.length for tensor in container.tensors.values() for part in tensor.segments.values())


def capacity(program: Program, most: int, file_bytes: int) -> tuple[dict[str, int], int]:
    """Most rows of a batch by the `rows` of a buffer, and how many tokens are computed together.

    Where texts are computed in one piece there is room for one of the whole context: memory that no text is long enough
    for is never touched.

    Args:
        program: The model, with one expert of each layer at least.
        most: Tokens that are computed together at most.
        file_bytes: Of the model's file, to bound the buffers.
    """
    rows = batch_rows(program, max(most, program.inputs.context_length) if program.whole_texts else most, file_bytes)
    wanted = rows if program.whole_texts else max(1, min(rows, LOGIT_BYTES // (4 * program.result.width)))
    return {"tokens": rows, "wanted": wanted}, min(most, rows)


class NumbaExecutor:
    """Runs a program on the packed tensors of an open file; no tensor is ever dequantized whole.

    Args:
        program: The model.
        container: The file, which must stay open.
        roles: Tensor names by role.
        threads: Threads of the kernels, by default one for each core; never more than processors.
        activations: "int8" rounds activations per group where they meet quantized matrices; "float32" does not.
        cache: Float type of the key-value cache, "f16" or "f32".
        max_rows: Most tokens that are computed together; memory grows with it.
        cache_bytes: Most bytes of keys, values and states; by default half of the memory that this process may use.

    Raises:
        UnsupportedError: A scheme or an operation that no kernel computes.
    """

    def __init__(
        self,
        program: Program,
        container: Container,
        roles: dict[str, str],
        *,
        threads: int | None = None,
        activations: str = "int8",
        cache: str = "f16",
        max_rows: int = 512,
        cache_bytes: int | None = None,
    ) -> None:
        from ggq_kernels.run import calls
        from ggq_kernels.run.guard import Guard
        from ggq_kernels.run.threads import Team, team_size

        self.program, self._container, self._jobs = program, container, calls.attention_jobs
        weights = Weights(container, roles)
        measured = with_widest_expert(program, weights)
        self._rows, self._together = capacity(measured, max_rows, stored_bytes(container))
        self._batch = Batch(self._rows["tokens"])
        self._bound = bind(program, weights, self._batch, self._rows, activations, cache, team_size(threads))
        self._team = Team(threads)  # when what its threads need was compiled together with the rest
        self.threads = self._team.threads
        self._logits = self._bound.array(program.result)
        specs = [(group.spec, len(group.members)) for group in groups(program.caches)]
        page_bytes = [n * calls.layer_bytes(cache, spec.kv_heads, spec.head_dim) for spec, n in specs]
        self._windows, self._page = [spec.window for spec, _ in specs], calls.PAGE
        self._stateful = bool(state_bytes := 4 * state_numbers(program.caches, calls.LANES))
        page_bytes += [state_bytes] * self._stateful
        self._pool = PagePool(page_bytes, usable_memory() // 2 if cache_bytes is None else cache_bytes)
        self._sequences: dict[int, PagedSequence] = {}
        self._opened = 0
        self._ropes: dict[Rotation, np.ndarray] = {}
        self._lock = threading.RLock()  # the batch's memory, the buffers and the pool belong to one call at a time
        self._closed = False
        self._check_size = getattr(container, "check_whole", lambda: None)
        self._guard = Guard(container.mapped())

    def open_sequence(self) -> int:
        """The id of a new, empty sequence."""
        with self._lock:
            self._opened += 1
            self._sequences[self._opened] = PagedSequence(self._pool, self._windows, self._page, self._stateful)
            return self._opened

    def close_sequence(self, sequence: int) -> None:
        """Forget a sequence; pages that only it refers to are used again."""
        with self._lock:
            self._sequence(sequence).close()
            del self._sequences[sequence]

    def fork(self, sequence: int) -> int:
        """See `Executor.fork`; pages are shared until one of the sequences writes into them."""
        with self._lock:
            copy = self._sequence(sequence).fork()
            self._opened += 1
            self._sequences[self._opened] = copy
            return self._opened

    def truncate(self, sequence: int, length: int) -> int:
        """See `Executor.truncate`."""
        with self._lock:
            return self._sequence(sequence).truncate(length)

    def length(self, sequence: int) -> int:
        """Tokens that a sequence holds."""
        return self._sequence(sequence).length

    def serves(self, sequence: int, total: int) -> bool:
        """See `Executor.serves`."""
        found = self._sequence(sequence)
        return not found.length or found.long == self.program.inputs.is_long(total)

    def reserve(self, sequence: int, tokens: int) -> bool:
        """See `Executor.reserve`."""
        with self._lock:
            try:
                self._sequence(sequence).reserve(tokens)
            except PoolFull:
                return False
            return True

    def room(self) -> int:
        """See `Executor.room`."""
        return self._pool.room

    def cost(self, tokens: int) -> int:
        """See `Executor.cost`."""
        return cost(self._pool, self._windows, self._page, tokens)

    def forward(self, runs: Sequence[Run]) -> np.ndarray:
        """See `Executor.forward`."""
        with self._lock:
            self._check_open()
            check_runs(self, runs)
            self._check_whole(runs)
            self._note_lengths(runs)
            for run in runs:  # all or nothing
                self._sequences[run.sequence].reserve(len(run.tokens))
            rows = self._together
            if sum(map(wanted_count, runs)) > self._rows["wanted"]:
                rows = min(rows, self._rows["wanted"])
            self._check_file()  # kernels read its map, where pages that are gone are zeros
            whole = self.program.whole_texts
            results = [self._forward(part) for stage in self._stages(runs) for part in pieces(stage, rows, whole=whole)]
            self._check_file()
            return results[0] if len(results) == 1 else np.concatenate(results)

    def _stages(self, runs: Sequence[Run]) -> list[Sequence[Run]]:
        """What is computed one after the other: of prompts that end here first what comes before a kept state."""
        if not self._stateful:
            return [runs]
        early, late = list[Run](), list[Run]()
        for run in runs:
            count = border(self.length(run.sequence), len(run.tokens)) if run.logits == "last" else 0
            if count:
                early.append(replace(run, tokens=run.tokens[:count], logits="none"))
                run = replace(run, tokens=run.tokens[count:])
            late.append(run)
        return [early, late] if early else [late]

    @property
    def steps(self) -> list[Step]:
        """What the rows of the bound program do, in their order."""
        return self._bound.steps

    def time_steps(self, runs: Sequence[Run]) -> list[float]:
        """Append a batch of at most `max_rows` tokens, step by step; the seconds that each took."""
        with self._lock:
            self._check_open()
            check_runs(self, runs)
            self._note_lengths(runs)
            self._describe(runs)
            self._check_file()
            seconds = []
            for i in range(len(self._bound.rows)):
                start = time.perf_counter()
                self._team.run(self._bound.rows, i, i + 1)
                seconds.append(time.perf_counter() - start)
            self._appended(runs)
            self._check_file()
            return seconds

    def first_not_finite(self, tokens: Sequence[int]) -> tuple[str, str] | None:
        """The first operation whose result is not finite for a text, as its kind and what it is of; None where all is
        finite.

        Args:
            tokens: From the beginning of the text; they are computed step by step in a sequence of their own.
        """
        sequence = self.open_sequence()
        with self._lock:
            try:
                self._sequences[sequence].long = self.program.inputs.is_long(len(tokens))
                for start in range(0, len(tokens), self._together):
                    part = np.asarray(tokens[start : start + self._together], np.int32)
                    run = Run(sequence, part, "last")
                    self._describe([run])
                    for i in range(len(self._bound.rows)):
                        self._team.run(self._bound.rows, i, i + 1)
                        if not all(self._bound.finite(i, buffer) for buffer in self._bound.op(i).writes()):
                            return self.steps[i].kind, self.steps[i].label
                    self._appended([run])
            finally:
                self.close_sequence(sequence)
        return None

    def close(self) -> None:
        """End the threads and release the memory; the file's map is referenced no more."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._team.close()
            self._guard.close()
            for sequence in self._sequences.values():
                sequence.close()
            self._sequences.clear()
            self._pool.close()
            del self._bound, self._logits, self._batch, self._ropes, self._container

    def _check_file(self) -> None:
        """Refuse a file that has become shorter, or whose pages were gone when a kernel read them."""
        self._check_size()
        if self._guard.lost:
            problem = "pages of the file were gone when they were read: it was cut short, or its disk fails"
            raise FormatError(problem, path=self._container.path, fix="load the model again once the file is whole")

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the executor is closed")

    def _check_whole(self, runs: Sequence[Run]) -> None:
        """Refuse a text that must be computed in one piece and does not fit into the buffers."""
        longest = max(len(run.tokens) for run in runs)
        if self.program.whole_texts and longest > self._rows["tokens"]:
            raise UsageError(f"a text of {longest} tokens is too long, {self._rows['tokens']} are computed together")

    def _forward(self, runs: Sequence[Run]) -> np.ndarray:
        try:
            wanted = self._describe(runs)
            self._team.run(self._bound.rows)
            self._appended(runs)
        except BaseException:
            for sequence in (self._sequences[run.sequence] for run in runs):
                sequence.truncate(sequence.length)  # its state may be a later one's: then it becomes shorter
            raise
        return self._logits[:wanted].copy()

    def _note_lengths(self, runs: Sequence[Run]) -> None:
        """Note whose texts are long, before they are cut into pieces."""
        if self.program.inputs.short_context:
            for run in runs:
                sequence = self._sequences[run.sequence]
                sequence.long = self.program.inputs.is_long(max(sequence.length + len(run.tokens), run.total))

    def _appended(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self._sequences[run.sequence].append(len(run.tokens))

    def _describe(self, runs: Sequence[Run]) -> int:
        """Tell the kernels of a batch; the number of wanted rows."""
        batch, first = self._batch, 0
        jobs = dict.fromkeys(batch.runs, 0)
        for i, run in enumerate(runs):
            sequence, count = self._sequences[run.sequence], len(run.tokens)
            start, rows = sequence.length, slice(first, first + count)
            sequence.reserve(count)
            self._extend_ropes(start + count, sequence.long)
            batch.ids[rows] = run.tokens
            batch.types[rows] = 0 if run.types is None else run.types
            batch.positions[rows] = start if count == 1 else np.arange(start, start + count)
            if boundary := self.program.inputs.short_context:
                batch.angles[rows] = batch.positions[rows] + boundary * sequence.long
            for group, tables in batch.tables.items():
                tables[rows] = sequence.addresses[group]
            for key, words in batch.runs.items():
                group, heads, kv_heads = key
                words[i] = first, count, start, sequence.addresses[group], jobs[key]
                jobs[key] += self._jobs(count, heads, kv_heads)
            if sequence.states is not None:
                batch.states[i] = first, count, sequence.states.source, sequence.states.target()
            first += count
        wanted = wanted_rows(runs)
        batch.wanted[: len(wanted)] = wanted
        batch.counts[:] = first, len(wanted), len(runs)
        return len(wanted)

    def _extend_ropes(self, positions: int, long: bool) -> None:
        """Make every rotation's table reach so many positions of a text, which may be a long one."""
        for rotation, address in self._batch.rope_tables.items():
            known = self._ropes.get(rotation, np.zeros((0, 2 * len(rotation.frequencies)), np.float32))
            before = rotation.boundary if rotation.long else 0
            rows = positions + before * long
            if rows <= len(known):
                continue
            longest = self.program.inputs.context_length + before
            total = max(rows, min(longest, max(2 * len(known), ROPE_STEP)))
            more = rotation.rows(len(known), total)
            self._ropes[rotation] = np.ascontiguousarray(np.concatenate([known, more]))
            address[0] = self._ropes[rotation].ctypes.data

    def _sequence(self, sequence: int) -> PagedSequence:
        if sequence not in self._sequences:
            raise UsageError(f"sequence {sequence} is not open")
        return self._sequences[sequence]
