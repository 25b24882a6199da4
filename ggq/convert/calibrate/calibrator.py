"""Calibration: a checkpoint run layer by layer in float32 over windows of text, and what its matrices met."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from ggq.convert.pool import start_pool
from ggq.format.paths import os_error
from ggq.models.names import Expression, Source
from ggq.quant.inputs import InputStatistics
from ggq.tape.cut import Section, sections
from ggq.tape.ops import Product
from ggq.tape.program import Buffer, Program
from ggq.tape.windows import WindowRun

CHUNK_TOKENS = 2048
"""Tokens that go through a layer at once; with a feed-forward of 8192 each of its buffers takes 64 MiB."""

SAMPLE_TOKENS = 512
"""Tokens, about, whose inputs are kept as they are where a method wants samples."""

MEMORY_BYTES = 512 << 20
"""Hidden states of all tokens up to this size are kept in memory, larger ones in a nameless temporary file."""

READ_WEIGHTS = 1 << 20
"""Weights that a thread converts to float32 at once."""

LayerStatistics = Mapping[str, InputStatistics]
"""Statistics by the role of a matrix; those that share an input share the record."""


class Calibrator:
    """Runs a checkpoint over windows of text, one layer's weights in memory at a time.

    Args:
        source: Where weights are read.
        tensors: The model's tensors by role.
        program: The model.
        windows: int32 (windows, context), token ids.
        wants: What a matrix with this role wants besides numbers by column: of "gram" and "samples".
        report: Called with what is being done before each layer.
    """

    def __init__(
        self,
        source: Source,
        tensors: Mapping[str, Expression],
        program: Program,
        windows: NDArray[np.int32],
        wants: Callable[[str], Set[str]],
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.source, self.tensors, self.program, self.windows = source, tensors, program, windows
        self.wants, self.report = wants, report

    def layers(self) -> Generator[LayerStatistics, None, None]:
        """The statistics of each layer's matrices in the order of a forward pass, as soon as they are known.

        What lies before the first layer and behind the last counts as a layer of its own. Memory beyond the hidden
        states is one layer's weights, sums and the buffers of CHUNK_TOKENS tokens.
        """
        count, context = self.windows.shape
        step = max(1, CHUNK_TOKENS // context)
        chunks = [slice(start, min(start + step, count)) for start in range(0, count, step)]
        kept: dict[Buffer, NDArray[np.float32]] = {}
        for section in sections(self.program):
            if self.report is not None:
                self.report(f"calibrating {section.name or 'the outer layers'}")
            weights = self._weights(section)
            sums: dict[str, Sums] = {}
            run = WindowRun(context, weights.__getitem__, partial(self._observe, sums))
            results = {buffer: kept.get(buffer) for buffer in section.kept}
            for chunk in chunks:
                before = {buffer: array[chunk] for buffer, array in kept.items()}
                after = run.run(section, self.windows[chunk], before)
                for buffer, array in after.items():
                    whole = results[buffer]
                    if whole is None:
                        whole = results[buffer] = scratch((count, context, buffer.width))
                    whole[chunk] = array
            kept = {buffer: array for buffer, array in results.items() if array is not None}
            del weights, run
            yield {role: found for each in sums.values() for role, found in each.take()}
            sums.clear()

    def _observe(self, sums: dict[str, Sums], product: Product, x: NDArray[np.float32]) -> None:
        if product.weights[0] not in sums:
            wants = frozenset[str]().union(*(self.wants(role) for role in product.weights))
            every = -(-self.windows.size // SAMPLE_TOKENS)  # as in `sample_count`
            every = every if "samples" in wants else 0
            sums[product.weights[0]] = Sums(product.weights, x.shape[1], "gram" in wants, every)
        sums[product.weights[0]].add(x)

    def _weights(self, section: Section) -> LayerWeights:
        return LayerWeights(self.source, self.tensors, {int(token) for token in np.unique(self.windows)}, section)


class LayerWeights:
    """The float32 numbers of one segment's tensors, read when first asked for and kept while the segment runs.

    Of an embedding only the rows of tokens that occur are read; the others are zeros.
    """

    def __init__(self, source: Source, tensors: Mapping[str, Expression], tokens: set[int], section: Section) -> None:
        self.source, self.tensors, self.tokens = source, tensors, tokens
        self.tables = {role for op in section.ops for role in op.tables()}
        self.allowed = {role for op in section.ops for role in op.weights_read()}
        self.found: dict[str, NDArray[np.float32]] = {}

    def __getitem__(self, role: str) -> NDArray[np.float32]:
        assert role in self.allowed
        if role not in self.found:
            rows = sorted(self.tokens) if role in self.tables else None
            self.found[role] = read_whole(self.source, self.tensors[role], rows)
        return self.found[role]


@dataclass
class Sums:
    """Sums over the inputs that some matrices share."""

    roles: tuple[str, ...]
    columns: int
    wants_gram: bool
    every: int
    """Of how many tokens one is kept as a sample; 0 for none."""
    count: int = 0
    largest: NDArray[np.float32] = field(init=False)
    total: NDArray[np.float64] = field(init=False)
    squares: NDArray[np.float64] = field(init=False)
    gram: NDArray[np.float32] | None = field(init=False)
    samples: list[NDArray[np.float32]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.largest = np.zeros(self.columns, np.float32)
        self.total, self.squares = np.zeros(self.columns), np.zeros(self.columns)
        self.gram = np.zeros((self.columns, self.columns), np.float32) if self.wants_gram else None

    def add(self, x: NDArray[np.float32]) -> None:
        """Count in float32 (tokens, columns)."""
        if self.every:
            self.samples.append(x[-self.count % self.every :: self.every].copy())
        self.count += len(x)
        with np.errstate(over="ignore", invalid="ignore"):
            self.largest = np.maximum(self.largest, np.maximum(x.max(axis=0), -x.min(axis=0)))
            self.total += x.sum(axis=0, dtype=np.float64)
            self.squares += np.einsum("tc,tc->c", x, x, dtype=np.float64)
            if self.gram is not None:
                self.gram += x.T @ x  # NumPy gives this to BLAS's syrk, which does half the work

    def take(self) -> Iterator[tuple[str, InputStatistics]]:
        """The means for each role; the sums are used up."""
        with np.errstate(over="ignore"):
            if self.gram is not None:
                self.gram /= np.float32(self.count)
            found = InputStatistics(
                self.count,
                self.largest,
                (self.total / self.count).astype(np.float32),
                (self.squares / self.count).astype(np.float32),
                self.gram,
                np.concatenate(self.samples) if self.every else None,
            )
        self.gram = None
        self.samples.clear()
        for role in self.roles:
            yield role, found


def sample_count(tokens: int) -> int:
    """How many of so many tokens are kept as samples."""
    return -(-tokens // -(-tokens // SAMPLE_TOKENS))


def read_whole(source: Source, expression: Expression, only: list[int] | None = None) -> NDArray[np.float32]:
    """A tensor's numbers in its shape.

    Args:
        source: Where they are read.
        expression: A tensor.
        only: Rows that are wanted, ascending; the others are zeros.
    """
    shape = expression.shape(source.shape)
    count, columns = prod(shape[:-1]), shape[-1]
    out = np.empty((count, columns), np.float32) if only is None else np.zeros((count, columns), np.float32)

    def read(start: int, stop: int) -> None:
        expression.rows(source, start, stop, out[start:stop])

    if only is not None:
        for row in only:
            read(row, row + 1)
        return out.reshape(shape)
    step = max(1, READ_WEIGHTS // columns)
    parts = [(start, min(start + step, count)) for start in range(0, count, step)]
    if len(parts) == 1:
        read(*parts[0])
    else:
        from ggq_kernels.run.cores import physical_cores

        with start_pool(min(physical_cores(), len(parts))) as pool:
            for _ in pool.map(lambda part: read(*part), parts):
                pass
    return out.reshape(shape)


def _take(descriptor: int, size: int) -> None:
    """Give a file its size, and the room on its disk, as a map of it that finds the disk full ends the process."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except AttributeError:  # macOS
        os.truncate(descriptor, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise os_error(error, tempfile.gettempdir(), f"write {size} bytes of hidden states") from None
        os.truncate(descriptor, size)


def scratch(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An array for hidden states; a large one lies in a temporary file without a name, which leaves nothing behind."""
    size = 4 * int(np.prod(shape))
    if size <= MEMORY_BYTES:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(prefix="ggq-calibration-") as file:
        _take(file.fileno(), size)
        return np.memmap(file, np.float32, "r+", shape=shape)
