"""Batches on their way through the quantized and the full-precision model, section by section."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from ggq.train.losses import text_loss
from ggq.train.program import ProgramModule, State

WEIGHED_BATCHES = 8
"""Batches that tell how much each column of a section's results counts."""

LEAST_WORTH = 0.01
"""What a column counts at least, of the mean."""


class Streams:
    """Some batches on their way through both models.

    Args:
        student: The quantized model.
        teacher: The model in full precision.
        batches: Token ids (windows, context).
        precision: Of products, where they are computed.
    """

    def __init__(
        self,
        student: ProgramModule,
        teacher: ProgramModule,
        batches: Sequence[Any],
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._student, self._teacher, self._precision = student, teacher, precision
        self._tokens, self._number = batches, 0
        self._ours: list[State] = []
        self._theirs: list[State] = []
        self._wanted: list[State] = []
        self.worth: list[State] = []
        """How much each column of what a section gives counts, by section and buffer."""

    def advance(self, number: int) -> None:
        """Bring every batch to before a section, and know what the full-precision model makes of it there."""
        if not self.worth:
            self._ours, self._theirs = [{} for _ in self._tokens], [{} for _ in self._tokens]
            with self._precision():
                self.worth = worth_of(self._teacher, self._tokens[:WEIGHED_BATCHES])
        with torch.no_grad(), self._precision():
            while self._number < number:
                self._ours = self._through(self._student, self._ours)
                self._theirs = self._wanted or self._through(self._teacher, self._theirs)
                self._wanted, self._number = [], self._number + 1
            self._wanted = self._through(self._teacher, self._theirs)

    def batch(self, step: int) -> tuple[Any, State, State]:
        """Tokens of a step, what the section meets, and what it is to give."""
        place = step % len(self._tokens)
        return self._tokens[place], self._ours[place], self._wanted[place]

    def _through(self, module: ProgramModule, states: list[State]) -> list[State]:
        section = module.sections[self._number]
        return [module.run(section, tokens, state) for tokens, state in zip(self._tokens, states, strict=True)]


def worth_of(module: ProgramModule, batches: Sequence[Any]) -> list[State]:
    """How much each column of what the sections give counts: the mean square of the text loss's slope in it.

    An error of some size in one column may change what the model says a hundred times as much as in another.

    Args:
        module: In full precision.
        batches: Token ids (windows, context).

    Returns:
        For each section and buffer float (width,), 1 in the mean.

    Source: Li et al. 2021, BRECQ (arXiv 2102.05426), section 3.3, here of columns instead of single numbers.
    """
    slopes: list[State] = [{} for _ in module.sections]
    for tokens in batches:
        state: State = {}
        passed: list[State] = []
        for section in module.sections:
            state = module.run(section, tokens, state)
            if not passed:  # embeddings: no slope is asked for below them
                state = {buffer: values.detach().requires_grad_() for buffer, values in state.items()}
            for values in state.values():
                if values.requires_grad:
                    values.retain_grad()
            passed.append(state)
        text_loss(state[module.program.result], tokens).backward()
        for total, some in zip(slopes, passed, strict=True):
            for buffer, values in some.items():
                slope = torch.zeros_like(values) if values.grad is None else values.grad
                total[buffer] = total.get(buffer, 0.0) + slope.float().square().mean((0, 1))
    return [{buffer: _weighed(total) for buffer, total in totals.items()} for totals in slopes]


def _weighed(slopes: Any) -> Any:
    worth = slopes / slopes.mean().clamp(min=1e-30)
    return (worth + LEAST_WORTH) / (1 + LEAST_WORTH)
