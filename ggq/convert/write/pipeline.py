"""Reading, quantizing and writing at once, in bounded memory and with the same bytes for any number of threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from contextlib import closing
from math import prod

from ggq.convert.calibrate.calibration import Calibration
from ggq.convert.mix.candidates import searched
from ggq.convert.options import Progress
from ggq.convert.plan.plan import Plan
from ggq.convert.pool import start_pool
from ggq.convert.write.blocks import Block, TensorJob
from ggq.convert.write.stacked import FilePlan, StackJob, StackPlan, file_tensors, members_of
from ggq.convert.write.stages import Work, stages
from ggq.format import Writer
from ggq.format.scheme import Geometry
from ggq.models.names import Flattened
from ggq.quant import ErrorSum
from ggq.quant.matrix import geometry
from ggq.quant.small import refuse_small
from ggq.quant.tiles import Segments, empty_segments

LOOK_AHEAD_BYTES = 64 << 20
"""Bytes of results, besides the largest tensor's, that may wait for their turn to be written."""

KEPT_BYTES = 64 << 20
"""Bytes of memory of written tensors that are kept for the next ones."""

PIECE_BYTES = 1 << 18
"""Bytes of a tensor that are written as soon as they are final."""

LOOK_AHEAD_TENSORS = 64
"""Tensors that may be under way at once."""

WORKER_BYTES = 48 << 20
"""Memory of a thread, about: a block as read, as float32, as segments, decoded, and as float64 for its error."""

BASE_BYTES = 192 << 20
"""Memory of Python, its libraries, the headers and the index, about."""

COMPILED_WEIGHTS = 1 << 24
"""Weights of a model from which on loading the compiled encoder, half a second, pays."""


def memory_estimate(plan: Plan, workers: int, calibration: Calibration | None = None) -> int:
    """Bytes of memory that a conversion will take at most, about."""
    assets = 8 * sum(len(data) for data in plan.assets.values())  # tokenizer.json as Python objects
    more = 0
    if calibration is not None:
        from ggq.convert.calibrate.calibration_memory import calibration_bytes

        more = calibration_bytes(plan, calibration, workers)
    return BASE_BYTES + assets + WORKER_BYTES * workers + _budget(plan) + KEPT_BYTES + more


def write_tensors(
    plan: Plan, writer: Writer, workers: int, progress: Progress | None = None, calibration: Calibration | None = None
) -> None:
    """Convert every tensor that the writer does not have yet, and write them in the order of their stages.

    Blocks are independent and errors are added up in their order, so nothing depends on which thread was first.

    Args:
        plan: What to write.
        writer: Where to; the calling thread alone uses it.
        workers: Threads that read and quantize.
        progress: Called now and then, by the calling thread.
        calibration: What the methods know of the inputs, or None.

    Raises:
        GGQError: The first failure in that order.
    """
    finished, memory = writer.finished, _Memory()
    done = sum(tensor.source_bytes for tensor in file_tensors(plan) if tensor.name in finished)
    reporter = _Reporter(plan, done, progress)
    pool = start_pool(workers)
    ready = {each.name for tensor in file_tensors(plan) if tensor.name in finished for each in members_of(tensor)}
    parts = stages(plan, calibration, ready, reporter.about)
    try:
        with closing(parts):
            for tensors, works in parts:
                stored = file_tensors(plan, tensors)
                waiting = deque(tensor for tensor in stored if tensor.name not in finished)
                _write_stage(plan, writer, pool, waiting, works, memory, reporter)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Memory:
    """Segments that are used again by tensors of the same sizes: layers are alike, and the system zeroes new memory."""

    def __init__(self) -> None:
        self._free: dict[tuple[int, ...], list[Segments]] = {}
        self._bytes = 0

    def take(self, sizes: Geometry) -> Segments:
        """Segments of these lengths, to be filled."""
        free = self._free.get(tuple(sizes.lengths.values()))
        if not free:
            return empty_segments(sizes)
        self._bytes -= sizes.bytes
        return dict(zip(sizes.lengths, free.pop().values(), strict=True))

    def give(self, segments: Segments) -> None:
        """Take segments back that nobody looks at any more."""
        lengths = tuple(map(len, segments.values()))
        if self._bytes + sum(lengths) <= KEPT_BYTES:
            self._bytes += sum(lengths)
            self._free.setdefault(lengths, []).append(segments)


def _write_stage(
    plan: Plan,
    writer: Writer,
    pool: Executor,
    waiting: deque[FilePlan],
    works: Mapping[str, Work],
    memory: _Memory,
    reporter: _Reporter,
) -> None:
    flying: deque[tuple[TensorJob | StackJob, list[tuple[Block, Future[ErrorSum]]]]] = deque()
    budget, taken = _budget(plan), 0
    while waiting or flying:
        while waiting and _fits(waiting[0], taken, budget, len(flying)):
            job = _job(plan, waiting.popleft(), works, memory)
            taken += job.plan.bytes
            flying.append((job, [(block, pool.submit(job.convert, block)) for block in job.blocks()]))
        job, blocks = flying.popleft()
        error, written = ErrorSum(), 0
        first = next(iter(job.segments.values()))
        for number, (block, future) in enumerate(blocks):
            reporter.about(job.plan.name, job.plan.source_bytes * number // len(blocks))
            error.merge(future.result())
            final = job.final_bytes(block)
            if final - written >= PIECE_BYTES:
                writer.begin_tensor(job.plan.name, first[written:final])
                written = final
        _write(writer, job, error, plan)
        memory.give(job.segments)
        taken -= job.plan.bytes
        reporter.done += job.plan.source_bytes
        del job, blocks, first  # what they hold goes before the next tensor takes its own
        reporter.about("")


def _job(plan: Plan, tensor: FilePlan, works: Mapping[str, Work], memory: _Memory) -> TensorJob | StackJob:
    """A tensor of the file to be converted."""
    segments = memory.take(geometry(tensor.scheme, tensor.shape))
    quick = plan.weights >= COMPILED_WEIGHTS, searched(plan.weights)
    if isinstance(tensor, StackPlan):
        return StackJob(plan.checkpoint, tensor, works, *quick, segments)
    return TensorJob(plan.checkpoint, tensor, works[tensor.name], *quick, segments)


class _Reporter:
    """Reports progress: the bytes of finished tensors, and of the one that is waited for."""

    def __init__(self, plan: Plan, done: int, progress: Progress | None) -> None:
        self.total, self.done, self.progress = plan.source_bytes, done, progress

    def about(self, name: str, more: int = 0) -> None:
        if self.progress is not None:
            self.progress(self.done + more, self.total, name)


def _budget(plan: Plan) -> int:
    """Bytes of results that may be in memory at once."""
    return LOOK_AHEAD_BYTES + max(tensor.bytes for tensor in file_tensors(plan))


def _fits(tensor: FilePlan, taken: int, budget: int, flying: int) -> bool:
    return flying == 0 or (flying < LOOK_AHEAD_TENSORS and taken + tensor.bytes <= budget)


def _write(writer: Writer, job: TensorJob | StackJob, sums: ErrorSum, whole: Plan) -> None:
    plan, error = job.plan, sums.error()
    refuse_small(plan.scheme, sums, prod(plan.shape), plan.name, plan.sources[0].file)
    about: dict[str, str] = {"role": plan.role} if whole.described else {}
    if not isinstance(plan, StackPlan) and isinstance(plan.expression, Flattened):
        about["source_shape"] = "x".join(map(str, plan.sources[0].shape))
    method: dict[str, str] = {"method": job.work.method} if job.work.method else {}
    writer.add_tensor(
        plan.name,
        plan.shape,
        plan.scheme,
        job.segments,
        {
            **about,
            **method,
            **job.work.notes,
            "source_dtype": plan.source_dtype,
            "relative_rmse": _rounded(error.relative_rmse),
            "sqnr_db": _rounded(error.sqnr_db),
            "max_error": _rounded(error.max_error),
        },
    )


def _rounded(number: float) -> float:
    """Four digits: those far behind depend on the order in which a processor adds, and would change the digest."""
    return float(f"{number:.4g}")
