"""Layers are trained against what the full-precision model gives, and columns count as they matter to what it says."""

from __future__ import annotations

import numpy as np
import pytest

from ggq.convert.convert import plan
from tests.kit.support import DEMO

torch = pytest.importorskip("torch", reason="needs PyTorch: the extra ggq[train]")

from contextlib import nullcontext  # noqa: E402

from ggq.train.build import student_of, teacher_of  # noqa: E402
from ggq.train.losses import section_loss  # noqa: E402
from ggq.train.streams import LEAST_WORTH, Streams, worth_of  # noqa: E402

PLAN = plan(DEMO, scheme="q2-g64")
TOKENS = torch.from_numpy(np.random.default_rng(1).integers(0, 500, (2, 6)))


@pytest.mark.parametrize("number", [0, 2])
def test_columns_count_by_the_slope_of_the_text_loss(number: int) -> None:
    """Against finite differences in float64, token by token."""
    module = teacher_of(PLAN)
    found = worth_of(module, [TOKENS])[number]
    module.double()
    with torch.no_grad():
        state: dict = {}
        for section in module.sections[: number + 1]:
            state = module.run(section, TOKENS, state)
        (buffer,) = state

        def loss(change: torch.Tensor) -> float:
            after = {buffer: state[buffer] + change}
            for section in module.sections[number + 1 :]:
                after = module.run(section, TOKENS, after)
            logits = after[module.program.result]
            return float(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten()))

        slopes = []
        for column in (3, 40, 77):
            total = 0.0
            for window, token in np.ndindex(2, 6):
                change = torch.zeros_like(state[buffer])
                change[window, token, column] = 1e-4
                total += ((loss(change) - loss(-change)) / 2e-4) ** 2
            slopes.append(total)
    worth = found[buffer] * (1 + LEAST_WORTH) - LEAST_WORTH
    assert float(found[buffer].mean()) == pytest.approx(1.0, abs=1e-4)
    ratios = (worth[[3, 40, 77]] / worth[3]).numpy()
    assert ratios == pytest.approx(np.array(slopes) / slopes[0], rel=0.01)


def test_errors_count_by_their_columns() -> None:
    wanted, found = {"x": torch.ones(1, 1, 2)}, {"x": torch.tensor([[[1.5, 3.0]]])}
    assert float(section_loss(found, wanted, {"x": torch.tensor([1.0, 0.0])})) == pytest.approx(0.25)
    assert float(section_loss(found, wanted, {"x": torch.tensor([1.0, 1.0])})) == pytest.approx(2.125)


def test_layers_meet_what_the_quantized_ones_before_them_make() -> None:
    student, teacher = student_of(PLAN, True), teacher_of(PLAN)
    streams = Streams(student, teacher, [TOKENS, TOKENS + 1], nullcontext)
    for number in (1, 3):
        streams.advance(number)
        tokens, met, wanted = streams.batch(3)
        with torch.no_grad():
            ours: dict = {}
            theirs: dict = {}
            for section in student.sections[:number]:
                ours, theirs = student.run(section, tokens, ours), teacher.run(section, tokens, theirs)
            theirs = teacher.run(teacher.sections[number], tokens, theirs)
        assert torch.equal(tokens, TOKENS + 1)
        assert all(torch.equal(met[buffer], ours[buffer]) for buffer in ours)
        assert all(torch.equal(wanted[buffer], theirs[buffer]) for buffer in theirs)
