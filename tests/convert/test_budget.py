"""The knapsack behind a target: within the budget, and nothing better is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.convert.mix import budget as module
from ggq.convert.mix.budget import Option, solve

OPTIONS = st.lists(
    st.builds(Option, st.integers(0, 30), st.floats(0, 100).map(lambda x: round(x, 3))), min_size=1, max_size=4
)


def brute(items: list[list[Option]], budget: int) -> float | None:
    """The least loss by trying everything."""
    sums = [
        sum(option.loss for option in choice)
        for choice in product(*items)
        if sum(option.cost for option in choice) <= budget
    ]
    return min(sums, default=None)


@given(st.lists(OPTIONS, min_size=1, max_size=6), st.integers(0, 120))
def test_nothing_within_the_budget_is_better(items: list[list[Option]], budget: int) -> None:
    chosen, best = solve(items, budget), brute(items, budget)
    if best is None:
        assert chosen is None
        return
    assert chosen is not None
    picked = [item[k] for item, k in zip(items, chosen, strict=True)]
    assert sum(option.cost for option in picked) <= budget
    assert sum(option.loss for option in picked) == pytest.approx(best, rel=1e-9, abs=1e-9)


def tensors(count: int) -> list[list[Option]]:
    """Items like a model's: costs in bits, losses that fall by four for each bit."""
    random = np.random.default_rng(3)
    sizes, weights = 64 * random.integers(1, 200, count), np.exp(random.normal(0, 2, count))
    return [
        [
            Option(int(size * bits * 16), float(weight * 4.0**-bits * random.uniform(0.8, 1.25)))
            for bits in (2.25, 3.125, 3.25, 4.125, 4.25, 5.25, 6.25, 8.25)
        ]
        for size, weight in zip(sizes, weights)
    ]


@pytest.mark.parametrize("bits", [2.5, 3.5, 4.5, 7.0])
def test_a_large_model_is_proven_best_and_spends_all_but_little(bits: float, monkeypatch: pytest.MonkeyPatch) -> None:
    items = tensors(400)
    total = sum(item[0].cost for item in items) / 2.25
    chosen = solve(items, int(bits * total))
    assert chosen is not None
    spent = sum(item[k].cost for item, k in zip(items, chosen)) / total
    assert bits - 0.001 < spent <= bits
    lost = sum(item[k].loss for item, k in zip(items, chosen))
    monkeypatch.setattr(module, "MOST_STATES", 1 << 20)  # nothing had been dropped that would have been better
    again = solve(items, int(bits * total))
    assert again is not None and lost == pytest.approx(sum(item[k].loss for item, k in zip(items, again)), rel=1e-6)


def test_the_best_is_chosen_where_everything_can_be_paid() -> None:
    items = tensors(5)
    assert solve(items, sum(item[-1].cost for item in items)) == [7] * 5


def test_nothing_is_chosen_where_the_cheapest_is_too_dear() -> None:
    items = tensors(5)
    cheapest = sum(item[0].cost for item in items)
    assert solve(items, cheapest) == [0] * 5 and solve(items, cheapest - 1) is None
