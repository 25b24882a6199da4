"""How much of prompts a step takes along, and whose."""

from __future__ import annotations

import pytest

from ggq.generate.request import Scoring
from ggq.generate.scheduler import Policy, Scheduler
from ggq.generate.serving.pace import PROBE, ROWS, Fixed, Measured
from ggq.generate.serving.shares import hand_out, in_turn
from tests.generate.test_scheduler import complete
from tests.kit.toy_executor import ToyExecutor, continuation


def stairs(tokens: int, fixed: float, each: float) -> float:
    """A machine whose steps take a fixed time and more for each ROWS tokens that are begun."""
    return fixed + each * ROWS * -(-tokens // ROWS)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
@pytest.mark.parametrize(("fixed", "each"), [(0.03, 0.001), (0.03, 0.005), (0.005, 0.0001), (0.0, 0.003)])
@pytest.mark.parametrize("decoding", [1, 4, 8, 13])
def test_streams_keep_their_share_of_their_rate(share: float, fixed: float, each: float, decoding: int) -> None:
    pace, spent, steps, read = Measured(share), 0.0, 0, 0
    for turn in range(1000):
        prompts = pace.beside(decoding)
        took = stairs(decoding + prompts, fixed, each)
        pace.observe(decoding, prompts, took)
        if turn >= 200:
            spent, steps, read = spent + took, steps + 1, read + prompts
    alone = stairs(decoding, fixed, each)
    rate = alone * steps / spent
    assert share <= rate
    # Prompts get about what the rest of the time can read, at 1 / each tokens a second.
    assert read / spent >= 0.7 * (1 - 1.15 * share) / each


def test_a_size_that_costs_no_more_is_filled() -> None:
    """Beside 5 that decode 3 more are free where 8 are multiplied at once."""
    pace, read = Measured(0.9), 0
    for _ in range(200):
        prompts = pace.beside(5)
        pace.observe(5, prompts, stairs(5 + prompts, 0.0, 0.004))
        read += prompts
    assert read >= 150 * 3


def test_one_long_step_does_not_stop_prompts() -> None:
    pace = Measured()
    for _ in range(50):
        pace.observe(4, prompts := pace.beside(4), stairs(4 + prompts, 0.03, 0.001))
    pace.observe(4, 12, 60.0)
    waits = 0
    while pace.beside(4) == 0:
        pace.observe(4, 0, stairs(4, 0.03, 0.001))
        waits += 1
    assert waits < 20


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
