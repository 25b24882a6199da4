"""Statistics that no inputs have are told from those that some have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ggq.quant.inputs import InputStatistics
from ggq.quant.possible import impossible

RNG = np.random.default_rng(3)
X = RNG.standard_normal((200, 24)).astype(np.float32)
X[:, 3] = 0
GOOD = InputStatistics(
    len(X), np.abs(X).max(axis=0), X.mean(axis=0), (X * X).mean(axis=0), (X.T @ X) / np.float32(len(X)), X[::4].copy()
)


def test_those_of_real_inputs_are_possible() -> None:
    assert impossible(GOOD) == ""
    for scale in (1e-9, 1e9):
        assert impossible(GOOD.scaled(np.full(24, scale, np.float32))) == ""


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), -1e38, 3e38, -1.0])
@pytest.mark.parametrize("part", ["absolute_maximum", "mean", "mean_square", "gram", "samples"])
def test_one_bent_number_is_seen(part: str, number: float) -> None:
    if part == "mean" and number == -1.0:
        number = -9.0
    if part == "samples" and number == -1.0:
        number = -9.0
    bent: Any = getattr(GOOD, part).copy()
    bent.reshape(-1)[0] = number
    assert impossible(replace(GOOD, **{part: bent}))


def test_a_column_that_was_infinite_when_it_was_calibrated_is_possible() -> None:
    x = X.copy()
    x[5, 7] = np.inf
    with np.errstate(invalid="ignore"):
        gram = (x.T @ x) / np.float32(len(x))
        found = InputStatistics(
            len(x), np.abs(x).max(axis=0), x.mean(axis=0), (x * x).mean(axis=0), gram, x[1::4].copy()
        )
    assert impossible(found) == "" and "infinite" in found.trouble


def test_products_that_differ_from_themselves_mirrored() -> None:
    assert GOOD.gram is not None
    gram = GOOD.gram.copy()
    gram[2, 9] = -gram[2, 9] + 0.2
    assert "mirrored" in impossible(replace(GOOD, gram=gram))
