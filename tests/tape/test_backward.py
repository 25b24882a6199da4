"""The program backwards: gradients are the slopes that differences show."""

from __future__ import annotations

import numpy as np
import pytest

from ggq.tape.backward import BackwardRun
from ggq.tape.cut import Section, sections
from ggq.tape.program import Buffer
from ggq.tape.windows import WindowRun
from tests.kit.small_models import CONFIGS, prompt
from tests.tape.test_windows import model


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_the_slopes_of_differences(name: str) -> None:
    """In float64, where a difference over 1e-6 of the weights shows nine digits of the slope."""
    program, tensors = model(name)
    weights = {role: array.astype(np.float64) for role, array in tensors.items()}
    windows = np.array(prompt({"vocab_size": 64}, 22), np.int32).reshape(2, 11)
    windows[:, 3] = windows[:, 7]  # a token that occurs twice
    random = np.random.default_rng(5)
    slope = random.normal(size=(*windows.shape, program.inputs.vocabulary_size))
    whole = Section("", program.ops, frozenset({program.logits}))

    def value() -> float:
        return float((WindowRun(11, weights.__getitem__).run(whole, windows, {})[program.logits] * slope).sum())

    found: dict[str, np.ndarray] = {}

    def meet(role: str, source: np.ndarray, gradient: np.ndarray) -> None:
        total = found.setdefault(role, np.zeros_like(weights[role]))
        if source.ndim == 1:
            np.add.at(total, source, gradient)
        else:
            total += gradient.T @ source

    run = WindowRun(11, weights.__getitem__)
    assert BackwardRun(run, meet).back(whole, windows, {}, {program.logits: slope}) == {}
    assert set(found) == {role for role, array in weights.items() if array.ndim == 2}
    for role, gradient in found.items():
        exact, direction = weights[role], random.normal(size=gradient.shape)
        weights[role] = exact + 1e-6 * direction
        above = value()
        weights[role] = exact - 1e-6 * direction
        assert (above - value()) / 2e-6 == pytest.approx((gradient * direction).sum(), rel=1e-5), role
        weights[role] = exact


@pytest.mark.parametrize("name", ["grouped", "biased"])
def test_segments_one_by_one_give_what_the_whole_tape_gives(name: str) -> None:
    program, tensors = model(name)
    windows = np.array(prompt({"vocab_size": 64}, 24), np.int32).reshape(2, 12)
    run = WindowRun(12, tensors.__getitem__)
    slope = np.random.default_rng(6).normal(size=(*windows.shape, program.inputs.vocabulary_size)).astype(np.float32)
    results = []
    for parts in ([Section("", program.ops, frozenset({program.logits}))], sections(program)):
        met: dict[str, float] = {}
        back = BackwardRun(run, lambda role, source, slope, met=met: met.update({role: float(np.square(slope).sum())}))
        states: list[dict[Buffer, np.ndarray]] = [{}]
        for part in parts[:-1]:
            states.append(run.run(part, windows, states[-1]))
        slopes = {program.logits: slope}
        for part, state in zip(reversed(parts), reversed(states), strict=True):
            slopes = back.back(part, windows, state, slopes)
        results.append(met)
    assert results[0] == pytest.approx(results[1], rel=1e-5) and len(results[0]) > 10
