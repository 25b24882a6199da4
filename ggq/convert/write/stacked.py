"""Experts of a layer written as one tensor: each matrix is quantized on its own, and placed in its piece of a stack."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ggq.convert.plan.plan import Plan, TensorPlan
from ggq.convert.source.checkpoint import FLOATS, Checkpoint
from ggq.convert.source.safetensors_header import SourceTensor
from ggq.convert.write.blocks import Block, TensorJob
from ggq.convert.write.stages import Notes, Work, plain_work
from ggq.format.scheme import Scheme
from ggq.format.stacks import SHARED, name_of_stack, place_in_stack
from ggq.quant import ErrorSum
from ggq.quant.matrix import geometry
from ggq.quant.methods import Method
from ggq.quant.methods.fitted import Fitted
from ggq.quant.methods.kmeans import KMeans, learnt_codebook
from ggq.quant.tiles import Segments, empty_segments

LISTED = 8
"""Experts that are told by number; of more, how many there are."""


@dataclass(frozen=True)
class StackPlan:
    """What becomes of the matrices of one kind of all experts of a layer.

    Args:
        name, role: Of the stack in the file.
        members: The matrices in the order of the experts, of one shape and one scheme.
    """

    name: str
    role: str
    members: tuple[TensorPlan, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Experts, rows, columns."""
        return (len(self.members), *self.members[0].shape)

    @property
    def scheme(self) -> Scheme:
        """How it will be stored."""
        return self.members[0].scheme

    @property
    def bytes(self) -> int:
        """Its segments' length."""
        return geometry(self.scheme, self.shape).bytes

    @cached_property
    def source_bytes(self) -> int:
        """Bytes of its sources."""
        return sum(member.source_bytes for member in self.members)

    @cached_property
    def sources(self) -> tuple[SourceTensor, ...]:
        """The tensors of the checkpoint that it is made of."""
        return tuple(dict.fromkeys(source for member in self.members for source in member.sources))

    @property
    def source_dtype(self) -> str:
        """See `TensorPlan`."""
        return "+".join(dict.fromkeys(FLOATS.get(source.dtype, source.dtype.lower()) for source in self.sources))


FilePlan = TensorPlan | StackPlan
"""A tensor of the file."""


def file_tensors(plan: Plan, tensors: Sequence[TensorPlan] | None = None) -> list[FilePlan]:
    """The tensors of the file, a stack in the place of its first matrix.

    The matrices of experts become one where all have one scheme, and one table if that has any: codes that are taken
    from a training may have other tables, and keep tensors of their own.

    Args:
        plan: A conversion.
        tensors: The tensors of one layer or more; all by default.
    """
    given = plan.tensors if tensors is None else tensors
    if plan.described is None:
        return list(given)
    stacks: dict[str, dict[int, TensorPlan]] = {}
    for tensor in given:
        if place := place_in_stack(tensor.role):
            stacks.setdefault(place[0], {})[place[1]] = tensor
    whole = {role: made for role, found in stacks.items() if (made := _stack(role, found)) is not None}
    result: list[FilePlan] = []
    for tensor in given:
        place = place_in_stack(tensor.role)
        if place is None or place[0] not in whole:
            result.append(tensor)
        elif place[1] == 0:
            result.append(whole[place[0]])
    return result


def members_of(tensor: FilePlan) -> tuple[TensorPlan, ...]:
    """What a tensor of the file is made of: the matrices of a stack, or itself alone."""
    return tensor.members if isinstance(tensor, StackPlan) else (tensor,)


def _stack(role: str, found: Mapping[int, TensorPlan]) -> StackPlan | None:
    """The stack of these matrices; None where they are stored one by one."""
    members = tuple(found[i] for i in sorted(found))
    if sorted(found) != list(range(len(found))) or any(member.taken is not None for member in members):
        return None
    if len({(member.scheme, member.shape) for member in members}) > 1:
        return None
    return StackPlan(name_of_stack(members[0].name, role), role, members)


class StackJob:
    """A stack while it is converted; see `TensorJob`.

    Args:
        source: Where the weights are read.
        plan: What becomes of the stack.
        works: What calibration adds to that, by the name of a matrix.
        compiled, searched: See `TensorJob`.
        segments: Memory for the segments, of their lengths; memory of their own by default.
    """

    def __init__(
        self,
        source: Checkpoint,
        plan: StackPlan,
        works: Mapping[str, Work],
        compiled: bool = False,
        searched: bool = False,
        segments: Segments | None = None,
    ) -> None:
        self.source, self.plan, self.searched = source, plan, searched
        self.sizes = geometry(plan.scheme, plan.shape)
        self.segments = empty_segments(self.sizes) if segments is None else segments
        self._learning = threading.Lock()
        self._table: NDArray[np.int8] | None = None
        self._written: NDArray[np.uint8] | None = None
        self._quick = compiled, searched
        self._works = [works.get(member.name) or plain_work(member) for member in plan.members]
        self._jobs: dict[int, TensorJob] = {}

    @property
    def work(self) -> Work:
        """What was done with the matrices, in the words of one."""
        methods = Counter(work.method for work in self._works)
        return Work(methods.most_common(1)[0][0], notes=_notes(self._works))

    def blocks(self) -> Iterator[Block]:
        """Blocks of whole tiles that together are the stack."""
        for index in range(len(self.plan.members)):
            yield from ((index, start, stop) for _, start, stop in self._job(index, learn=False).blocks())

    def final_bytes(self, block: Block) -> int:
        """See `TensorJob`."""
        index, start, stop = block
        whole = len(next(iter(self.segments.values()))) // len(self.plan.members)
        return index * whole + self._job(index, learn=False).final_bytes((0, start, stop))

    def convert(self, block: Block) -> ErrorSum:
        """See `TensorJob`."""
        index, start, stop = block
        with self._learning:
            job = self._jobs.get(index)
            if job is None:
                job = self._jobs[index] = self._job(index)
        error = job.convert((0, start, stop))
        if SHARED in self.segments:
            self._keep_table(job.segments[SHARED])
        return error

    def _keep_table(self, found: NDArray[np.uint8]) -> None:
        """Place the table that all matrices were quantized with."""
        with self._learning:
            if self._written is None:
                self._written = self.segments[SHARED]
                self._written[:] = found
            assert np.array_equal(self._written, found), self.plan.name

    def _job(self, index: int, learn: bool = True) -> TensorJob:
        """That of one matrix, which fills its pieces of the parts."""
        parts = {
            part: whole.copy() if part == SHARED else whole.reshape(len(self.plan.members), -1)[index]
            for part, whole in self.segments.items()
        }
        work = self._works[index]
        if learn and SHARED in self.segments:
            work = replace(work, rounding=self._with_table(work.rounding))
        return TensorJob(self.source, self.plan.members[index], work, *self._quick, parts)

    def _with_table(self, method: Method | None) -> Method | None:
        """A method with the table that all matrices have in common, learnt from some rows of each."""
        if not isinstance(method, Fitted | KMeans) or method.codebook is not None:
            return method
        if self._table is None:
            plain = replace(self.plan.scheme, transform=frozenset())
            rows = [self._job(i, learn=False).sample() for i in range(len(self.plan.members))]
            step = max(1, len(rows) // 8)  # of many experts, rows of some
            self._table = learnt_codebook(None, np.concatenate(rows[::step]), plain, compiled=self.searched)
        return replace(method, codebook=self._table)


def _notes(works: Sequence[Work]) -> Notes:
    """What is noted of all matrices; which of them fell back, and why."""
    notes: dict[str, str | float] = {key: value for key, value in works[0].notes.items() if key != "fallback"}
    reasons: dict[tuple[str, str], list[int]] = {}
    for number, work in enumerate(works):
        if "fallback" in work.notes:
            reasons.setdefault((str(work.notes["fallback"]), work.method), []).append(number)
    told = [f"{_numbered(numbers, len(works))}: {why}; by {method}" for (why, method), numbers in reasons.items()]
    return {**notes, "fallback": "; ".join(told)} if told else notes


def _numbered(numbers: Sequence[int], count: int) -> str:
    """Experts in words."""
    if len(numbers) == count:
        return f"all {count} experts"
    if len(numbers) > LISTED:
        return f"{len(numbers)} of {count} experts"
    return f"expert{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
