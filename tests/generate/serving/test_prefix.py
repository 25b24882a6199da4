"""Prompts that begin as others did are computed from where they differ, and give what they would have given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ggq.generate.request import Scoring, Writing
from ggq.generate.scheduler import Policy, Scheduler
from ggq.generate.serving.pace import Fixed
from ggq.generate.serving.prefix import BLOCK, MOST_KEPT, common_length, digests
from tests.generate.test_scheduler import answer, complete
from tests.kit.toy_executor import PAGE, VOCABULARY, ToyExecutor, continuation


def sharing(executor: ToyExecutor, **policy: Any) -> Scheduler:
    return Scheduler(executor, Policy(Fixed(), prefixes=True, **policy))


def random_tokens(count: int, seed: int = 1) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCABULARY, count).tolist()


def computed(executor: ToyExecutor) -> int:
    return sum(count for step in executor.steps for _, count in step)


def test_the_same_prompt_again_computes_its_last_token() -> None:
    executor = ToyExecutor()
    scheduler, prompt = sharing(executor), random_tokens(200)
    assert complete(scheduler, [prompt], 1) == [continuation(prompt, 1)]
    executor.steps.clear()
    assert complete(scheduler, [prompt], 5) == [continuation(prompt, 5)]
    assert [count for step in executor.steps for _, count in step] == [1] * 5
    assert scheduler.prefixes is not None and scheduler.prefixes.hits == 199 and scheduler.prefixes.queries == 400


@pytest.mark.parametrize("shared", [BLOCK - 1, BLOCK, BLOCK + 5, 3 * BLOCK, 150])
def test_what_two_prompts_share_is_computed_once(shared: int) -> None:
    executor, beginning = ToyExecutor(), random_tokens(shared)
    scheduler = sharing(executor)
    one, other = ([*beginning, *random_tokens(60, seed)] for seed in (2, 3))
    complete(scheduler, [one], 3)
    executor.steps.clear()
    assert complete(scheduler, [other], 3) == [continuation(other, 3)]
    common = common_length(one, other)
    assert common >= shared and computed(executor) == len(other) + 2 - (common if common >= BLOCK else 0)


def test_the_next_turn_of_a_chat_goes_on_from_the_answer() -> None:
    executor, prompt = ToyExecutor(), random_tokens(100)
    scheduler = sharing(executor)
    (said,) = complete(scheduler, [prompt], 40)
    executor.steps.clear()
    turn = [*prompt, *said, 3, 4, 5]
    assert complete(scheduler, [turn], 2) == [continuation(turn, 2)]
    assert computed(executor) == 3 + 2  # the last token said was never computed


def test_prompts_that_come_together_follow_the_first_one() -> None:
    executor, beginning = ToyExecutor(), random_tokens(1500)
    given = [[*beginning, *random_tokens(20, seed)] for seed in range(2, 8)]
    scheduler = sharing(executor)
    assert complete(scheduler, given, 4) == [continuation(prompt, 4) for prompt in given]
    assert computed(executor) < 1500 + 6 * (20 + 4 + BLOCK)


def test_who_follows_goes_on_when_the_first_one_leaves() -> None:
    executor, prompt = ToyExecutor(), random_tokens(2000)
    scheduler = sharing(executor)
    first, second = (Writing(answer(prompt, 3), whole=True) for _ in range(2))

    def before(runs: Sequence[Any]) -> None:
        if len(executor.steps) == 2:
            scheduler.cancel(first)

    executor.before = before
    scheduler.submit([first, second])
    scheduler.wait(second)
    assert [piece.token for piece in second.pieces] == continuation(prompt, 3)


def test_logits_are_computed_from_the_beginning() -> None:
    executor, prompt = ToyExecutor(), random_tokens(100)
    scheduler = sharing(executor)
    complete(scheduler, [prompt], 1)
    request = Scoring(prompt)
    scheduler.complete([request])
    assert len(request.logits) == 100


@pytest.mark.parametrize("pages", [24, 40, 100])
def test_kept_prefixes_give_way_to_whoever_needs_memory(pages: int) -> None:
    """The longest takes 20 pages."""
    executor, rng = ToyExecutor(pages), np.random.default_rng(5)
    beginnings = [random_tokens(int(rng.integers(1, 100)), seed) for seed in range(3)]
    given = [
        [*beginnings[int(rng.integers(3))], *random_tokens(int(rng.integers(1, 40)), 9 + i)]
        for i in range(60)
    ]  # fmt: skip
    scheduler = sharing(executor)
    for start in range(0, 60, 6):
        part = given[start : start + 6]
        assert complete(scheduler, part, 2 * PAGE) == [continuation(prompt, 2 * PAGE) for prompt in part]
    scheduler.forget()
    assert executor.pool.used == 0 and not executor.sequences


def test_a_prompt_that_is_cancelled_is_not_kept_and_one_that_was_read_is() -> None:
    executor = ToyExecutor()
    scheduler, prompt = sharing(executor), random_tokens(600)
    cut, read = Writing(answer(prompt, 9), whole=True), Writing(answer(prompt, 10**6), whole=True)
    executor.before = lambda runs: scheduler.cancel(cut)
    scheduler.submit([cut])
    assert scheduler.work() and not executor.sequences
    executor.before = lambda runs: None
    scheduler.submit([read])
    assert scheduler.work() and scheduler.work()
    scheduler.cancel(read)
    assert scheduler.prefixes is not None and scheduler.prefixes.kept == 1 and not scheduler.work()


def test_no_more_than_so_many_are_kept() -> None:
    executor = ToyExecutor()
    scheduler = sharing(executor)
    for seed in range(MOST_KEPT + 9):
        complete(scheduler, [random_tokens(BLOCK, seed)], 1)
    assert scheduler.prefixes is not None and scheduler.prefixes.kept == MOST_KEPT == len(executor.sequences)
    scheduler.close()
    assert executor.pool.used == 0


def test_no_more_than_so_many_run() -> None:
    executor, given = ToyExecutor(), [random_tokens(5, seed) for seed in range(9)]
    assert complete(sharing(executor, most_running=2), given, 4) == [continuation(prompt, 4) for prompt in given]
    assert max(map(len, executor.steps)) == 2


def test_digests_are_of_all_before() -> None:
    tokens = random_tokens(4 * BLOCK + 7)
    found = list(digests(tokens))
    assert len(found) == 4 and list(digests(tokens[: 2 * BLOCK])) == found[:2]
    changed = list(digests([(tokens[0] + 1) % VOCABULARY, *tokens[1:]]))
    assert not set(changed) & set(found)


@pytest.mark.parametrize("place", [0, 1, 7, 99])
def test_common_length(place: int) -> None:
    tokens = random_tokens(100)
    other = [*tokens[:place], tokens[place] + 1, *tokens[place + 1 :]]
    assert common_length(tokens, other) == place and common_length(tokens, tokens[:place]) == place
