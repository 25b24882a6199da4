"""The loop: steps of an optimizer along a cosine, scored now and then, saved so that it can be resumed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ggq.errors import GGQError, UsageError
from ggq.train.saved import load_state, save_state

WARM_UP, LAST = 0.05, 0.02
"""Share of the steps in which the rate rises, and what is left of it at the end."""

LARGEST_GRADIENT = 1.0
"""Norm to which gradients of a step are cut."""


class Progress(NamedTuple):
    """What is told of a training while it goes on.

    Args:
        phase: Its name: "sample" (windows that the model writes), "lsq", "layers.3", "scales" ...
        step, steps: Steps done of the phase, and in all.
        loss: Of the last step, in nats or as a mean squared error; NaN for "sample".
        perplexity: On the windows that are held out; NaN where they were not scored now.
    """

    phase: str
    step: int
    steps: int
    loss: float
    perplexity: float = math.nan


@dataclass(frozen=True, eq=False)
class Phase:
    """A part of a training with an optimizer of its own.

    Args:
        name: Of it.
        steps: Of the optimizer.
        groups: Parameters with their rates, as `torch.optim.AdamW` takes them.
        loss: The loss of a step, by its number.
        prepare: Called before each step with its number.
        settle: Called after each step.
        score: The perplexity on what is held out; None where there is nothing to score.
        finish: Called at the end.
    """

    name: str
    steps: int
    groups: list[dict[str, Any]]
    loss: Callable[[int], Any]
    prepare: Callable[[int], None] = lambda step: None
    settle: Callable[[], None] = lambda: None
    score: Callable[[], float] | None = None
    finish: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Pace:
    """How a training is watched.

    Args:
        score_every: Steps between two scores.
        patience: Scores without a better one after which a phase ends; 0 for never.
        save_every: Steps between two saves.
        place: Where it is saved; None for nowhere.
        tell: Called with the progress.
        stop_after: Steps of this process after which it saves and stops; 0 for none.
    """

    score_every: int = 50
    patience: int = 0
    save_every: int = 50
    place: Path | None = None
    tell: Callable[[Progress], None] = lambda progress: None
    stop_after: int = 0


class Stopped(GGQError):
    """A training that stopped where it was told to, and was saved."""


@dataclass
class _Watch:
    """The best score of a phase, and how many were no better since."""

    best: float = math.inf
    since: int = 0
    kept: dict[str, Any] = field(default_factory=dict)


class Loop:
    """Carries out phases one after the other.

    Args:
        module: What is trained.
        pace: How it is watched.
        identity: What must be the same when it is resumed: source, text, options.
    """

    def __init__(self, module: Any, pace: Pace, identity: str = "") -> None:
        self.module, self.pace, self.identity = module, pace, identity
        self.steps = 0

    def run(self, phases: list[Callable[[], Phase]], resume: bool = False) -> None:
        """Carry them out.

        Args:
            phases: Make each phase when its turn comes, from the module as it is then.
            resume: Go on from what was saved.

        Raises:
            UsageError: There is nothing to resume, or it is of another training.
            Stopped: `Pace.stop_after` steps are done.
        """
        number, saved = 0, None
        if resume:
            if self.pace.place is None:
                raise UsageError("there is no place from which a training could be resumed")
            saved = load_state(self.pace.place, self.identity)
            number = saved["phase"]
            self.module.load_state_dict(saved["before"])
        for index in range(number, len(phases)):
            before = _copied(self.module)
            phase = phases[index]()
            self._phase(index, phase, before, saved)
            saved = None
        self._save(len(phases), 0, None, None, _copied(self.module))

    def _phase(self, index: int, phase: Phase, before: dict[str, Any], saved: dict[str, Any] | None) -> None:
        optimizer = torch.optim.AdamW(phase.groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        rates = [group["lr"] for group in optimizer.param_groups]
        step, watch = 0, _Watch()
        if saved is not None and saved["optimizer"] is not None:
            self.module.load_state_dict(saved["module"])
            optimizer.load_state_dict(saved["optimizer"])
            step, watch = saved["step"], _Watch(**saved["watch"])
        while step < phase.steps:
            share = rate_at(step, phase.steps)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * share
            phase.prepare(step)
            optimizer.zero_grad(set_to_none=True)
            loss = phase.loss(step)
            if not math.isfinite(found := float(loss.detach())):
                raise UsageError(f"the loss is {found} in step {step} of {phase.name}", fix="give a smaller --rate")
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for group in phase.groups for p in group["params"]], LARGEST_GRADIENT)
            optimizer.step()
            phase.settle()
            step, self.steps = step + 1, self.steps + 1
            ended = self._watched(phase, step, found, watch)
            if step % self.pace.save_every == 0 or step == self.pace.stop_after or self.steps == self.pace.stop_after:
                self._save(index, step, optimizer, watch, before)
            if self.pace.stop_after and self.steps >= self.pace.stop_after:
                raise Stopped(f"stopped after {self.steps} steps, in step {step} of {phase.name}")
            if ended:
                break
        if watch.kept:
            self.module.load_state_dict(watch.kept)
        phase.finish()

    def _watched(self, phase: Phase, step: int, loss: float, watch: _Watch) -> bool:
        """Score and tell; whether nothing has become better for long enough."""
        due = phase.score is not None and (step % self.pace.score_every == 0 or step == phase.steps)
        score = phase.score() if due and phase.score is not None else math.nan
        self.pace.tell(Progress(phase.name, step, phase.steps, loss, score))
        if not due or not self.pace.patience:
            return False
        if score < watch.best:
            watch.best, watch.since, watch.kept = score, 0, _copied(self.module)
        else:
            watch.since += 1
        return watch.since >= self.pace.patience

    def _save(self, index: int, step: int, optimizer: Any, watch: _Watch | None, before: dict[str, Any]) -> None:
        if self.pace.place is None:
            return
        state = {
            "phase": index,
            "step": step,
            "before": before,
            "module": self.module.state_dict(),
            "optimizer": None if optimizer is None else optimizer.state_dict(),
            "watch": None if watch is None else vars(watch),
        }
        save_state(self.pace.place, self.identity, state)


def rate_at(step: int, steps: int) -> float:
    """The share of the rate in a step: it rises, then falls along half a cosine."""
    rising = max(1, int(steps * WARM_UP))
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * done))


def _copied(module: Any) -> dict[str, Any]:
    """The state of a module, whose tensors are copied."""
    found = module.state_dict().items()
    return {name: value.detach().clone() if isinstance(value, torch.Tensor) else value for name, value in found}
