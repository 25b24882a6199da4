"""How much of prompts a step takes along, and whose."""

from __future__ import annotations

import pytest

from ggq.generate.request import Scoring
from ggq.generate.scheduler import Policy, Scheduler
from ggq.generate.serving.pace import FEWEST, PROBE, Fixed, Measured
from ggq.generate.serving.shares import hand_out, in_turn
from tests.generate.test_scheduler import complete
from tests.kit.toy_executor import ToyExecutor, continuation


def seconds(decoding: int, prompts: int, fixed: float, each: float) -> float:
    """A machine whose steps take a fixed time and more for each token of a prompt."""
    return fixed + 0.001 * decoding + each * prompts


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
@pytest.mark.parametrize(("fixed", "each"), [(0.03, 0.001), (0.03, 0.005), (0.005, 0.0001)])
def test_streams_keep_their_share_of_their_rate(share: float, fixed: float, each: float) -> None:
    pace, spent, steps = Measured(share), 0.0, 0
    for turn in range(400):
        prompts = pace.beside(4)
        took = seconds(4, prompts, fixed, each)
        pace.observe(4, prompts, took)
        if turn >= 100:
            spent, steps = spent + took, steps + 1
    rate = seconds(4, 0, fixed, each) * steps / spent
    least = seconds(4, 0, fixed, each) / seconds(4, FEWEST, fixed, each)
    assert share <= rate <= 1.3 * share or (rate < share and rate >= 0.95 * least) or prompts == pace.most


def test_it_measures_how_long_streams_take_alone_now_and_then() -> None:
    pace, alone = Measured(), 0
    for _ in range(3 * PROBE):
        prompts = pace.beside(1)
        alone += prompts == 0
        pace.observe(1, prompts, 0.05 if prompts else 0.03)
    assert alone == 3
    assert pace.beside(2) == 0  # another size was never measured


def test_a_long_prompt_is_read_beside_streams_however_slow() -> None:
    executor = ToyExecutor()
    scheduler = Scheduler(executor, Policy(Measured()))
    given = [[1] * 5, [2] * 900]
    assert complete(scheduler, given, 60) == [continuation(prompt, 60) for prompt in given]


class Asked(Scoring):
    def __init__(self, count: int, client: str, sequence: int | None = None) -> None:
        super().__init__([1] * count)
        self.client, self.sequence = client, sequence


def test_clients_get_even_shares_of_a_step() -> None:
    ready = [*(Asked(400, "many") for _ in range(8)), Asked(400, "few")]
    shares = hand_out(ready)
    assert sum(shares[:8]) == 256 == shares[8]
    assert hand_out([Asked(1, "one"), *ready], 60) == [1, 30, 0, 0, 0, 0, 0, 0, 0, 30]


def test_the_client_with_fewest_running_comes_next() -> None:
    ready = [Asked(9, "a", 1), Asked(9, "a", 2), *(Asked(9, "a") for _ in range(3)), Asked(9, "b"), Asked(9, "b")]
    order = in_turn(ready)
    assert [each.client for each in order] == ["a", "a", "b", "b", "a", "a", "a"]
    assert order[:2] == ready[:2] and order[4:] == ready[2:5]


def test_a_fixed_pace_does_not_change() -> None:
    pace = Fixed()
    before = pace.beside(3)
    pace.observe(3, 64, 100.0)
    assert pace.beside(3) == before == 64
