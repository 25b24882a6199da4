"""Quantizing a tensor by blocks of rows, each block on its own, so that threads share the work of even one tensor."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.convert.calibrate.changes import read_changed
from ggq.convert.plan.plan import TensorPlan
from ggq.convert.plan.taken import place_codes, read_codes
from ggq.convert.source.checkpoint import FLOATS, Checkpoint
from ggq.convert.source.packed.find import exact_form
from ggq.convert.write.stages import Work, plain_work
from ggq.errors import ConvertError
from ggq.format.scheme import TILE_ROWS
from ggq.models.names import Source, Tensor
from ggq.quant import ErrorSum, Method, decode_tensor, encode_tensor
from ggq.quant.matrix import geometry
from ggq.quant.methods import Learner, block_weights, prepared, sample_rows
from ggq.quant.methods.fitted import Fitted
from ggq.quant.methods.kmeans import KMeans
from ggq.quant.methods.transforms.chain import keeping
from ggq.quant.tiles import Segments, empty_segments, view_floats, view_matrix

BLOCK_WEIGHTS = 1 << 20
"""Weights of a block, about: 4 MiB of float32. Smaller ones wait for Python, larger ones leave threads idle."""

MULTIPLES = "multiples"
"""The method that keeps numbers which were rounded before."""

COMPILED_METHODS = ("absmax", "zero-point")
"""Methods that the compiled encoder knows; the scheme's zero-points tell it which."""

Block = tuple[int, int, int]
"""Number of the matrix, first row and the row behind the last."""


class _Memory(threading.local):
    """Memory of a thread for a block, which the next one overwrites: the system zeroes new memory page by page."""

    def __init__(self) -> None:
        self._numbers = np.empty(0, np.float32)

    def take(self, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Memory of this shape, to be filled."""
        count = shape[0] * shape[1]
        if len(self._numbers) < count:
            self._numbers = np.empty(count, np.float32)
        return self._numbers[:count].reshape(shape)


_memory = _Memory()


class TensorJob:
    """One tensor while it is converted: its segments, filled block by block in any order.

    Args:
        source: Where the weights are read.
        plan: What becomes of the tensor.
        work: What calibration adds to that; None for nothing.
        compiled: Whether the compiled encoder does what it can do; it finds the same codes, a dozen times as fast.
        searched: Whether compiled code searches for steps and codebooks where it can; it finds the same.
        segments: Memory for the segments, of their lengths; memory of their own by default.
    """

    def __init__(
        self,
        source: Source,
        plan: TensorPlan,
        work: Work | None = None,
        compiled: bool = False,
        searched: bool = False,
        segments: Segments | None = None,
    ) -> None:
        self.source, self.plan, self.work = source, plan, work or plain_work(plan)
        plain = plan.scheme.kind == "uniform" and not plan.scheme.subscale and not plan.scheme.transform
        self.compiled = compiled and plain and plan.taken is None and self.work.change.nothing
        self.compiled = self.compiled and self.work.method in COMPILED_METHODS
        self.searched = searched
        self._method: Method | None = None
        self._learning = threading.Lock()
        self._codes: Segments | None = None
        self.sizes = geometry(plan.scheme, plan.shape)
        self.segments = empty_segments(self.sizes) if segments is None else segments

    def blocks(self) -> Iterator[Block]:
        """Blocks of whole tiles that together are the tensor."""
        weights = BLOCK_WEIGHTS
        if self.work.rounding is not None:
            weights = block_weights(self.work.rounding) or weights
        step = max(1, weights // (self.sizes.columns * TILE_ROWS)) * TILE_ROWS
        if self.plan.taken is not None:
            step = self.sizes.rows
        for matrix in range(self.sizes.count):
            for start in range(0, self.sizes.rows, step):
                yield matrix, start, min(start + step, self.sizes.rows)

    def final_bytes(self, block: Block) -> int:
        """Bytes at the beginning of the first segment that no block behind this one changes."""
        matrix, _, stop = block
        part = next(iter(self.segments))
        whole = len(self.segments[part]) // self.sizes.count
        if stop == self.sizes.rows:
            return (matrix + 1) * whole
        if part == "values":
            return matrix * whole + whole * stop // self.sizes.padded_rows
        scheme = self.plan.scheme  # the first plane comes first
        return matrix * whole + self.sizes.padded_columns * stop * scheme.planes[0] // 8

    def convert(self, block: Block) -> ErrorSum:
        """Read, quantize and place one block; the error that it made.

        Raises:
            ConvertError: Weights that are NaN, infinite or too large for the scheme.
        """
        matrix, start, stop = block
        if self.plan.taken is not None:
            return place_codes(self.plan, self.source, self.sizes, self._taken(), self.segments, matrix)
        first, scheme = matrix * self.sizes.rows, self.plan.scheme
        if self.compiled and (total := self._encode_stored(first + start, first + stop, matrix)) is not None:
            return total
        if self.work.change.nothing:
            out = _memory.take((stop - start, self.sizes.columns))
            weights = self.plan.expression.rows(self.source, first + start, first + stop, out)
            if self.compiled and (total := self._encode(weights, "f32", matrix, start // TILE_ROWS)) is not None:
                return total
        else:
            weights = self._changed(range(first + start, first + stop))
        if len(self.plan.shape) == 1:
            weights = weights[0]
        try:
            segments = encode_tensor(weights, scheme, self._prepared())
        except ConvertError as error:
            source = self.plan.sources[0]
            rows = f", rows {first + start} to {first + stop - 1}" if len(self.plan.shape) > 1 else ""
            raise ConvertError(
                error.problem, path=source.file, where=f"tensor {self.plan.name}{rows}", fix=error.fix
            ) from None
        self._place(segments, weights.shape, matrix, start // TILE_ROWS)
        total = ErrorSum()
        total.add(weights, decode_tensor(scheme, weights.shape, segments))
        if total.largest and self.work.method == MULTIPLES and exact_form(self.plan.sources[0].dtype) is not None:
            raise ConvertError(
                "f16 does not hold its scales, so no scheme keeps its numbers",
                path=self.plan.sources[0].file,
                where=f"tensor {self.plan.name}",
                fix="--scheme q4-g32, or another, quantizes it anew",
            )
        return total

    def _prepared(self) -> Method | None:
        """The tensor's method, which has learnt what its rows share; the first block that asks waits for that."""
        if self.work.rounding is None:
            return None
        with self._learning:
            if self._method is None:
                work, scheme = self.work, self.plan.scheme
                method = self.work.rounding
                if self.searched and isinstance(method, Fitted | KMeans):
                    method = replace(method, compiled=True)
                if scheme.transform:
                    method = keeping(method, self.sample(), scheme, work.inputs, work.scale, work.order)
                elif isinstance(method, Learner):
                    method = prepared(method, self.sample(), scheme, work.inputs)
                self._method = method
        return self._method

    def _taken(self) -> Segments:
        """The codes that are taken, read once."""
        with self._learning:
            if self._codes is None:
                self._codes = read_codes(self.plan)
        return self._codes

    def sample(self) -> NDArray[np.float32]:
        """Rows to learn from."""
        return self._changed(sample_rows(self.sizes.count * self.sizes.rows, self.sizes.columns).tolist())

    def _changed(self, rows: Iterable[int]) -> NDArray[np.float32]:
        """Rows of the tensor as transforms change them."""
        return read_changed(self.source, self.plan.expression, self.work.change, rows)

    def _encode_stored(self, start: int, stop: int, matrix: int) -> ErrorSum | None:
        """Encode rows of a source tensor as the checkpoint stores them, without widening them first: a sixth less time.

        Returns:
            The error; None where the tensor is no source tensor as it is, or the reference has to say what is wrong.
        """
        if not isinstance(self.plan.expression, Tensor) or not isinstance(self.source, Checkpoint):
            return None
        tensor = self.source.tensors[self.plan.expression.name]
        if tensor.dtype not in FLOATS:
            return None
        raw = self.source.read_rows(tensor, start, stop, reuse=True)
        return self._encode(raw, FLOATS[tensor.dtype], matrix, (start - matrix * self.sizes.rows) // TILE_ROWS)

    def _encode(self, weights: NDArray[Any], kind: str, matrix: int, tile: int) -> ErrorSum | None:
        """Encode a block where it lies in the tensor's segments; None where the reference has to say what is wrong."""
        from ggq_kernels.quantize.encode import encode

        scheme, sizes = self.plan.scheme, self.sizes
        view = view_matrix(scheme, sizes, self.segments, matrix)
        tiles = slice(tile, tile + -(-len(weights) // TILE_ROWS))
        planes = tuple(plane[tiles] for plane in view.planes)
        zeros = None if view.zeros is None else view.zeros[tiles]
        sums = encode(weights, kind, sizes.padded_columns, sizes.group, scheme.bits, planes, view.scales[tiles], zeros)
        return None if sums is None else ErrorSum(*sums)

    def _place(self, segments: Segments, shape: tuple[int, ...], matrix: int, tile: int) -> None:
        """Copy a block's segments to where they lie in the tensor's."""
        scheme, sizes = self.plan.scheme, self.sizes
        if len(shape) == 1:
            self.segments["values"][:] = segments["values"]
            return
        part = geometry(scheme, shape)
        if scheme.kind == "float":
            _copy(view_floats(scheme, sizes, self.segments)[matrix], view_floats(scheme, part, segments)[0], tile)
            return
        to, block = view_matrix(scheme, sizes, self.segments, matrix), view_matrix(scheme, part, segments, 0)
        for target, source in zip(to.tiled, block.tiled, strict=True):
            _copy(target, source, tile)
        for target, source in zip(to.shared, block.shared, strict=True):
            target[...] = source  # the same in every block


def _copy(target: NDArray[np.generic], block: NDArray[np.generic], tile: int) -> None:
    target[tile : tile + len(block)] = block
