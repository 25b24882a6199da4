"""The phases of each way to train: quantization-aware, learned steps, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ggq.train.loop import Phase
from ggq.train.losses import mixed_loss, perplexity, section_loss
from ggq.train.program import ProgramModule
from ggq.train.quantize.fake import LearnedQuantizer
from ggq.train.quantize.weight import TrainedWeight
from ggq.train.streams import Streams
from ggq.train.texts.windows import Windows, batch_of


@dataclass(frozen=True)
class Rates:
    """How fast what is trained moves.

    Args:
        weights: Of weights, norms and biases.
        steps: Of steps, zero-points and minimums, as a share of a matrix's mean step.
        scales: The same while scales alone are trained end to end.
    """

    weights: float = 2e-4
    steps: float = 3e-4
    scales: float = 1e-3


@dataclass(frozen=True, eq=False)
class Work:
    """What the phases of one training share.

    Args:
        student: The module with fake-quantized matrices.
        teacher: The model in full precision; None where nothing is asked of it.
        windows: To train on.
        held: To score.
        batch: Windows of a step.
        seed: Of their order.
        rates: See there.
        share: Of the divergence from the teacher in the loss; 0 for the text alone.
        refresh: Steps after which grids that follow the weights are chosen anew.
        bf16: Whether products are computed in bf16.
    """

    student: ProgramModule
    teacher: ProgramModule | None
    windows: Windows
    held: Windows
    batch: int
    seed: int
    rates: Rates
    share: float = 0.0
    refresh: int = 10
    bf16: bool = False

    @property
    def device(self) -> Any:
        """Where it is computed."""
        return next(self.student.parameters()).device

    def tokens(self, step: int) -> Any:
        """The windows of a step."""
        return self.moved(batch_of(self.windows, step, self.batch, self.seed))

    def moved(self, windows: Windows) -> Any:
        """Windows as a tensor, on the device."""
        return torch.from_numpy(windows.astype(np.int64)).to(self.device)

    def precision(self) -> AbstractContextManager[Any]:
        """The precision of products."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def loss(self, step: int) -> Any:
        """The loss of the whole model on a step's windows."""
        tokens, wanted = self.tokens(step), None
        with self.precision():
            if self.teacher is not None and self.share:
                with torch.no_grad():
                    wanted = self.teacher(tokens)
            return mixed_loss(self.student(tokens), tokens, wanted, self.share)

    def score(self) -> float:
        """The perplexity on the held windows, in float32."""
        return perplexity(self.student, self.moved(self.held))


def whole(work: Work, name: str, steps: int) -> Phase:
    """All weights, and steps where they are learned, end to end."""
    weights = [work.student.weight(role) for role in work.student.roles]

    def prepare(step: int) -> None:
        if step % work.refresh == 0:
            for weight in weights:
                weight.refresh()

    groups = groups_of(weights, work.rates.weights, work.rates.steps)
    return Phase(name, steps, groups, work.loss, prepare, lambda: project(weights), work.score, lambda: fold(weights))


def scales_alone(work: Work, steps: int) -> Phase:
    """Steps, zero-points and minimums, and norms and biases, end to end, under codes that stay (EfficientQAT's second
    phase, which trains the first three)."""
    weights = [work.student.weight(role) for role in work.student.roles]
    for weight in weights:
        weight.freeze_codes()
    groups = groups_of(weights, work.rates.weights, work.rates.scales, matrices=False)
    return Phase("scales", steps, groups, work.loss, settle=lambda: project(weights), score=work.score)


KEPT_BATCHES = 128
"""Batches whose inputs and outputs of a layer are in memory while it is trained."""


def layer_phases(work: Work, steps: int) -> list[Callable[[], Phase]]:
    """Each section with quantized matrices, one after the other, against its full-precision outputs.

    A section is given what the quantized sections before it make of the text, and is to give what the full-precision
    model has there.

    Source: Chen et al. 2024, EfficientQAT (arXiv 2407.11062), section 3.2.
    """
    count = min(steps, KEPT_BATCHES, -(-len(work.windows) // work.batch))
    assert work.teacher is not None
    batches = [work.tokens(step) for step in range(count)]
    streams = Streams(work.student, work.teacher, batches, work.precision)
    layers = [number for number, section in enumerate(work.student.sections) if section.name]
    return [partial(_layer, work, streams, number, steps) for number in layers]


def _layer(work: Work, streams: Streams, number: int, steps: int) -> Phase:
    student = work.student
    section = student.sections[number]
    weights = [student.weight(role) for op in section.ops for role in op.weights_read()]
    streams.advance(number)

    def loss(step: int) -> Any:
        tokens, before, wanted = streams.batch(step)
        with work.precision():
            return section_loss(student.run(section, tokens, before), wanted, streams.worth[number])

    groups = groups_of(weights, work.rates.weights, work.rates.steps)
    return Phase(section.name, steps, groups, loss, settle=lambda: project(weights), finish=lambda: fold(weights))


VECTORS = 10
"""How many times as fast norms and biases move as matrices: there are few of them, each for a whole row or column."""


def groups_of(
    weights: list[TrainedWeight], rate: float, step_rate: float, matrices: bool = True
) -> list[dict[str, Any]]:
    """Parameters with their rates: numbers together, the steps and shifts of each matrix as shares of their size.

    Args:
        weights: Of the model.
        rate: Of numbers of matrices; norms and biases move VECTORS times as fast.
        step_rate: Of steps and shifts.
        matrices: Whether the numbers of matrices move.
    """
    seen: set[int] = set()
    numbers: list[Any] = []
    vectors: list[Any] = []
    groups: list[dict[str, Any]] = []
    for weight in weights:
        if id(weight) in seen:
            continue
        seen.add(id(weight))
        vector = weight.numbers.ndim == 1
        if vector or matrices:
            some = [p for p in (weight.numbers, weight.left, weight.right) if p is not None and p.requires_grad]
            (vectors if vector else numbers).extend(some)
        if isinstance(weight.quantizer, LearnedQuantizer):
            groups += weight.quantizer.groups(step_rate)
    found = [(numbers, rate), (vectors, VECTORS * rate)]
    return [*({"params": some, "lr": each} for some, each in found if some), *groups]


def project(weights: list[TrainedWeight]) -> None:
    """Bring steps back into their range."""
    for weight in weights:
        if weight.quantizer is not None:
            weight.quantizer.project()


def fold(weights: list[TrainedWeight]) -> None:
    """Fold corrections of low rank in."""
    for weight in weights:
        weight.fold()
