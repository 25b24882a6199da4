"""tools/perplexity.py: the arithmetic, against a model whose answer is known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tools.perplexity import perplexity


def model_with(logits: Any) -> Any:
    return SimpleNamespace(logits=logits)


def test_a_model_that_knows_nothing_is_as_perplexed_as_the_vocabulary_is_large() -> None:
    value, count = perplexity(model_with(lambda ids: np.full((len(ids), 7), 3, np.float32)), list(range(7)) * 3, 10)
    assert value == pytest.approx(7)
    assert count == 2 * 9  # two whole windows, whose first tokens are not predicted


def test_the_next_token_is_scored_and_not_this_one() -> None:
    """A model that gives the successor of each token the odds 3 : 1 : 1 : 1."""

    def logits(ids: list[int]) -> np.ndarray:
        rows = np.zeros((len(ids), 4), np.float32)
        rows[np.arange(len(ids)), [(token + 1) % 4 for token in ids]] = math.log(3)
        return rows

    assert perplexity(model_with(logits), [0, 1, 2, 3, 0, 1], 6)[0] == pytest.approx(2)
    assert perplexity(model_with(logits), [0, 0, 0, 0, 0, 0], 6)[0] == pytest.approx(6)
