"""Who is computed when: chunks of prompts, joining, leaving, a full cache, errors; over a toy executor that knows what
every answer must be."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from ggq.errors import GGQError, UsageError
from ggq.generate.generation import Answer, Memory
from ggq.generate.request import AHEAD, Scoring, Writing
from ggq.generate.sampling import Sampler, Sampling
from ggq.generate.scheduler import Scheduler
from ggq.generate.serving.pace import BESIDE
from ggq.generate.serving.shares import BUDGET, hand_out
from ggq.generate.stream import Stream
from tests.kit.toy_executor import PAGE, VOCABULARY, ToyExecutor, continuation, next_token


def answer(prompt: Sequence[int], limit: int = 10, ends: Sequence[int] = ()) -> Answer:
    return Answer(prompt, limit, Sampler(Sampling()), lambda ids: "".join(chr(48 + i) for i in ids), (), ends)


def text_of(tokens: Sequence[int]) -> str:
    return "".join(chr(48 + token) for token in tokens)


def prompts(count: int, longest: int = 40, seed: int = 1) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, int(rng.integers(1, longest))).tolist() for _ in range(count)]


def complete(scheduler: Scheduler, given: Sequence[list[int]], limit: int = 10) -> list[list[int]]:
    """The tokens of several answers written together."""
    requests = [Writing(answer(prompt, limit), whole=True) for prompt in given]
    scheduler.complete(requests)
    return [[piece.token for piece in request.pieces if piece.token is not None] for request in requests]


def test_answers_together_are_those_of_each_alone() -> None:
    executor, given = ToyExecutor(), prompts(30)
    assert complete(Scheduler(executor), given) == [continuation(prompt, 10) for prompt in given]
    assert not executor.sequences and executor.pool.used == 0


def test_logits_are_those_after_every_token() -> None:
    executor, tokens = ToyExecutor(), prompts(1, 1500, seed=3)[0] * 3
    request = Scoring(tokens)
    Scheduler(executor).complete([request])
    assert request.logits.argmax(axis=1).tolist() == [next_token(tokens[: i + 1]) for i in range(len(tokens))]
    assert len(executor.steps) == -(-len(tokens) // BUDGET)


def test_a_long_prompt_does_not_stall_an_answer() -> None:
    """While a stream goes on, a prompt takes BESIDE tokens of each of its steps."""
    executor = ToyExecutor()
    scheduler = Scheduler(executor)
    stream = Stream(scheduler, answer([1, 2, 3], 100))
    got = next(stream)
    long = Writing(answer([5] * 400, 5), whole=True)
    scheduler.submit([long])
    for _ in range(30):
        got += next(stream)
    assert [sum(count for _, count in step) for step in executor.steps[1:7]] == [1 + BESIDE] * 6
    assert all(step[0][1] == 1 for step in executor.steps[1:])
    assert long.finished and [piece.token for piece in long.pieces] == continuation([5] * 400, 5)
    assert got + "".join(stream) == text_of(continuation([1, 2, 3], 100))


@pytest.mark.parametrize(
    ("pending", "expected"),
    [
        ([7], [7]),
        ([2000], [BUDGET]),
        ([1, 1, 1], [1, 1, 1]),
        ([300, 300], [300, 212]),
        ([10, 2000, 2000], [10, 502, 0]),
        ([2000, 10, 2000], [502, 10, 0]),
        ([2000, 100, 100, 100, 100], [256, 100, 100, 56, 0]),
        ([1, 2000], [1, BESIDE]),
        ([2000, 1, 3, 2000], [61, 1, 3, 0]),
    ],
)
def test_the_oldest_prompt_gets_half_and_the_shortest_the_rest(pending: list[int], expected: list[int]) -> None:
    assert hand_out([Scoring([1] * count) for count in pending]) == expected


def test_more_answers_than_a_step_has_tokens_take_turns() -> None:
    executor = ToyExecutor()
    given = [[i % VOCABULARY, i // VOCABULARY] for i in range(BUDGET + 100)]
    assert complete(Scheduler(executor), given, 6) == [continuation(prompt, 6) for prompt in given]
    assert max(sum(count for _, count in step) for step in executor.steps) == BUDGET
    assert len(executor.steps) <= 2 * -(-len(given) * 7 // BUDGET)


def test_streams_in_turns_are_computed_together() -> None:
    executor, given = ToyExecutor(), prompts(8)
    scheduler = Scheduler(executor)
    streams = [Stream(scheduler, answer(prompt, 40)) for prompt in given]
    texts = [""] * 8
    for _ in range(40):
        for i, stream in enumerate(streams):
            texts[i] += next(stream)
            assert texts[i] == stream.answer.text  # what was computed ahead does not show
    assert texts == [text_of(continuation(prompt, 40)) for prompt in given]
    assert len(executor.steps) < 60


def test_a_stream_that_nobody_reads_is_not_computed_far_ahead() -> None:
    executor = ToyExecutor()
    scheduler = Scheduler(executor)
    idle = Stream(scheduler, answer([1], 200))
    next(idle)
    complete(scheduler, [[2]], 100)
    assert sum(sequence == 1 for step in executor.steps for sequence, _ in step) == AHEAD + 1
    assert len(idle.answer.tokens) == 1


def test_a_stream_computes_nothing_before_it_is_read_and_alone_nothing_ahead() -> None:
    executor = ToyExecutor()
    stream = Stream(Scheduler(executor), answer([1], 5))
    assert not executor.steps
    for count in range(1, 6):
        next(stream)
        assert len(executor.steps) == count
    assert list(stream) == [] and len(executor.steps) == 5 and not executor.sequences


# ---- leaving


def test_a_cancelled_answer_frees_its_pages_at_once_when_nothing_is_computed() -> None:
    executor = ToyExecutor()
    stream = Stream(Scheduler(executor), answer([1] * 100, 50))
    next(stream)
    assert executor.pool.used > 0
    stream.close()
    assert executor.pool.used == 0 and list(stream) == []


def test_a_prompt_is_cancelled_in_its_middle_and_frees_its_pages_within_the_step() -> None:
    used: list[int] = []

    def before(runs: Sequence[Any]) -> None:
        used.append(executor.pool.used // executor.pool.page_bytes[0])
        if len(used) == 3:
            scheduler.cancel(long)

    executor = ToyExecutor(before=before)
    scheduler = Scheduler(executor)
    long, short = Writing(answer([1] * 3000), whole=True), Writing(answer([2] * 3, 9), whole=True)
    scheduler.submit([long, short])
    scheduler.wait(short)
    assert long.finished and long.computed > 0 and not long.pieces
    assert used[2] > 40 and used[3:] == [1] * 3 + [2] * 3  # step n holds 2 + n tokens, pages hold 8
    assert executor.pool.used == 0 and not executor.sequences


def test_a_stream_that_is_dropped_is_cancelled() -> None:
    executor = ToyExecutor()
    scheduler = Scheduler(executor)
    stream = Stream(scheduler, answer([1], 50))
    next(stream)
    del stream
    gc.collect()
    complete(scheduler, [[3]], 1)
    assert not executor.sequences


# ---- a full cache


@pytest.mark.parametrize("pages", [4, 5, 7, 12, 30])
def test_a_full_cache_makes_answers_wait_and_changes_none(pages: int) -> None:
    """The longest takes 4 pages alone; 25 together would take a hundred."""
    executor, given = ToyExecutor(pages), prompts(25, 2 * PAGE)
    assert complete(Scheduler(executor), given, 2 * PAGE) == [continuation(prompt, 2 * PAGE) for prompt in given]
    assert executor.pool.used == 0


def test_an_answer_that_was_preempted_goes_on_where_it_was() -> None:
    """Two streams grow until only one fits: the later one is computed anew, what was read of it stays."""
    executor = ToyExecutor(pages=6)
    scheduler = Scheduler(executor)
    streams = [Stream(scheduler, answer([i], 5 * PAGE)) for i in range(2)]
    texts = ["", ""]
    for _ in range(5 * PAGE):
        for i, stream in enumerate(streams):
            texts[i] += next(stream, "")
    assert texts == [text_of(continuation([i], 5 * PAGE)) for i in range(2)]
    assert executor._opened > 2, "nobody was preempted"


def test_logits_are_preempted_and_not_computed_twice() -> None:
    """They fit when they begin; meanwhile the answer before them grows by more than the page that is left for it."""
    executor = ToyExecutor(pages=152)
    scheduler, second = Scheduler(executor), [4, 5] * 600
    requests = [Writing(answer([1], 100), whole=True), Scoring(second)]
    scheduler.complete(requests)
    scored = requests[1]
    assert isinstance(scored, Scoring)
    assert scored.logits.argmax(axis=1).tolist() == [next_token(second[: i + 1]) for i in range(1200)]
    assert executor._opened > 2, "nobody was preempted"


def test_what_does_not_fit_even_alone_is_refused_and_the_others_go_on() -> None:
    executor = ToyExecutor(pages=4)
    scheduler = Scheduler(executor)
    small, large = Writing(answer([1], 9), whole=True), Writing(answer([2] * 100, 9), whole=True)
    scheduler.submit([large, small])
    with pytest.raises(
        UsageError, match=r"100 tokens do not fit into the cache\ngive a shorter text, or load the model"
    ):
        scheduler.wait(large)
    scheduler.wait(small)
    assert [piece.token for piece in small.pieces] == continuation([1], 9)
    assert executor.pool.used == 0


def test_memories_make_room_before_anybody_waits() -> None:
    executor = ToyExecutor(pages=6)
    scheduler = Scheduler(executor)
    memory = Memory(scheduler)
    list(Stream(scheduler, answer([1] * 20, 5), memory))
    assert len(memory.tokens) == 24 and executor.pool.room == 3 * 64
    assert complete(scheduler, [[2] * 30], 5) == [continuation([2] * 30, 5)]
    assert memory.tokens == [] and memory.sequence is None
    text = "".join(Stream(scheduler, answer([1] * 20, 5), memory))
    assert text == text_of(continuation([1] * 20, 5))


# ---- memories


def test_a_memory_keeps_what_two_prompts_share() -> None:
    executor = ToyExecutor()
    scheduler = Scheduler(executor)
    memory, first = Memory(scheduler), [*range(30)]
    list(Stream(scheduler, answer(first, 5), memory))
    assert memory.tokens == first + continuation(first, 5)[:4]
    for prompt, computed in (
        (first[:20] + [9, 9, 9], 3),  # what follows is another text
        (first[:20] + [9, 9, 9], 1),  # the same again: the last token's logits are wanted
        (first[:20], 1),
        ([7, *first], 31),  # nothing in common
    ):
        stream = Stream(scheduler, answer(prompt, 5), memory)
        assert "".join(stream) == text_of(continuation(prompt, 5))
        assert stream.timing.prefill_tokens == computed
    assert len(executor.sequences) == 1
    del memory, stream
    gc.collect()
    complete(scheduler, [[3]], 1)
    assert not executor.sequences


def test_a_memory_in_use_is_left_alone() -> None:
    scheduler = Scheduler(ToyExecutor())
    memory, prompt = Memory(scheduler), [*range(30)]
    one, other = (Stream(scheduler, answer(prompt, 5), memory) for _ in range(2))
    text = next(one) + next(other)
    assert "".join(other) == text_of(continuation(prompt, 5)[1:])
    assert text[0] + "".join(one) == text_of(continuation(prompt, 5))
    assert memory.tokens == prompt + continuation(prompt, 5)[:4]


def test_a_stream_closed_early_leaves_its_memory_what_was_computed() -> None:
    executor = ToyExecutor()
    scheduler = Scheduler(executor)
    memory, prompt = Memory(scheduler), [*range(30)]
    stream = Stream(scheduler, answer(prompt, 50), memory)
    next(stream), next(stream)
    stream.close()
    assert memory.tokens == prompt + continuation(prompt, 1) and memory.sequence is not None
    assert executor.length(memory.sequence) == 31


# ---- what goes wrong


def test_what_goes_wrong_in_one_answer_is_its_own() -> None:
    executor = ToyExecutor()
    scheduler = Scheduler(executor)
    good, bad = Writing(answer([1], 9), whole=True), Writing(answer([2], 9), whole=True)

    def broken(logits: np.ndarray) -> Any:
        raise GGQError("no such token")

    bad.answer.accept = broken  # type: ignore[method-assign]
    scheduler.submit([good, bad])
    scheduler.wait(good)
    assert [piece.token for piece in good.pieces] == continuation([1], 9)
    with pytest.raises(GGQError, match="no such token"):
        scheduler.wait(bad)
    assert not executor.sequences


def test_a_step_that_fails_fails_those_in_it_and_the_next_ones_go_on() -> None:
    trouble = [MemoryError("none left")]

    def before(runs: Sequence[Any]) -> None:
        if trouble:
            raise trouble.pop()

    executor = ToyExecutor(before=before)
    scheduler = Scheduler(executor)
    with pytest.raises(MemoryError, match="none left"):
        complete(scheduler, [[1], [2]])
    assert not executor.sequences
    assert complete(scheduler, [[1], [2]]) == [continuation([1], 10), continuation([2], 10)]


def test_an_interrupted_step_is_as_if_it_had_not_been() -> None:
    """Ctrl-C in the thread that leads ends its own call; the others' answers go on."""
    trouble: list[BaseException] = []

    def before(runs: Sequence[Any]) -> None:
        if trouble:
            raise trouble.pop()

    executor = ToyExecutor(before=before)
    scheduler = Scheduler(executor)
    other = Stream(scheduler, answer([1, 2], 9))
    text = next(other)
    trouble.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        complete(scheduler, [[3]])
    assert text + "".join(other) == text_of(continuation([1, 2], 9))
    assert not executor.sequences


def test_whatever_comes_after_the_end_is_refused() -> None:
    executor = ToyExecutor()
    scheduler = Scheduler(executor)
    stream = Stream(scheduler, answer([1], 9))
    next(stream)
    scheduler.close()
    assert not executor.sequences and scheduler.closed
    with pytest.raises(UsageError, match="^the model is closed$"):
        next(stream)
    with pytest.raises(UsageError, match="^the model is closed$"):
        complete(scheduler, [[1]])


def test_the_end_waits_for_the_step_and_wakes_those_who_wait() -> None:
    inside, go_on, problems = threading.Event(), threading.Event(), list[Exception]()

    def before(runs: Sequence[Any]) -> None:
        inside.set()
        assert go_on.wait(60)

    executor = ToyExecutor(before=before)
    scheduler = Scheduler(executor)

    def ask() -> None:
        try:
            complete(scheduler, [[1]], 10**6)
        except UsageError as problem:
            problems.append(problem)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert inside.wait(60)
    ender = threading.Thread(target=scheduler.close)
    ender.start()
    go_on.set()
    for thread in (*threads, ender):
        thread.join(60)
        assert not thread.is_alive()
    assert [str(problem) for problem in problems] == ["the model is closed"] * 3
    assert not executor.sequences


# ---- threads


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run work(0) ... work(count - 1) at once; what one raises is raised here."""
    problems: list[BaseException] = []

    def call(place: int) -> None:
        try:
            work(place)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=call, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a thread waits for ever"
    if problems:
        raise problems[0]


@pytest.mark.parametrize("pages", [16, 60, 10**6])
def test_threads_that_come_and_go_get_their_own_answers(pages: int) -> None:
    """Streams read to the end, streams closed early, whole answers, batches and logits, mixed at random."""
    executor = ToyExecutor(pages)
    scheduler = Scheduler(executor)

    def work(place: int) -> None:
        rng = np.random.default_rng(place)
        for _ in range(25):
            prompt = rng.integers(0, VOCABULARY, int(rng.integers(1, 60))).tolist()
            limit, kind = int(rng.integers(1, 40)), rng.random()
            expected = continuation(prompt, limit)
            if kind < 0.3:
                assert "".join(Stream(scheduler, answer(prompt, limit))) == text_of(expected)
            elif kind < 0.5:
                stream = Stream(scheduler, answer(prompt, limit))
                read = min(limit, 3)
                assert [next(stream) for _ in range(read)] == list(text_of(expected[:read]))
                stream.close()
            elif kind < 0.8:
                assert complete(scheduler, [prompt, prompt[:1]], limit) == [expected, continuation(prompt[:1], limit)]
            else:
                request = Scoring(prompt)
                scheduler.complete([request])
                expected = [next_token(prompt[: i + 1]) for i in range(len(prompt))]
                assert request.logits.argmax(axis=1).tolist() == expected

    in_threads(8, work)
    assert not executor.sequences and executor.pool.used == 0


def test_threads_are_computed_together() -> None:
    """Eight threads' answers take far fewer steps than one after the other."""
    executor, start = ToyExecutor(), threading.Barrier(8)
    scheduler = Scheduler(executor)

    def work(place: int) -> None:
        start.wait(60)
        assert complete(scheduler, [[place]], 200) == [continuation([place], 200)]

    in_threads(8, work)
    assert len(executor.steps) < 8 * 200 / 2
