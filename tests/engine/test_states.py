"""States of sequences in the pool: which are kept, what truncation and forks find, what an interrupted run leaves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.engine.kv.policy import MOST_STATES, SPACING, border, least_useful
from ggq.engine.kv.pool import PagePool, PoolFull
from ggq.engine.kv.sequence import PagedSequence, cost
from tests.kit.support import ROOT

PAGE, STATE = 64, 128


class Sums:
    """Sequences whose state is the sum of their tokens, as a kernel would carry it on."""

    def __init__(self, limit: int = 1 << 20, window: int = 0) -> None:
        self.pool, self.window = PagePool([PAGE, STATE], limit), window

    def open(self) -> PagedSequence:
        return PagedSequence(self.pool, [self.window], 4, states=True)

    def run(self, sequence: PagedSequence, tokens: list[int], *, interrupted: bool = False) -> None:
        sequence.reserve(len(tokens))
        assert sequence.states is not None
        before = self.at(sequence.states.source)
        target = self.memory(sequence.states.target())
        target[0] = before + sum(tokens)
        if not interrupted:
            sequence.append(len(tokens))

    def value(self, sequence: PagedSequence) -> int:
        assert sequence.states is not None
        return self.at(sequence.states.source)

    def at(self, address: int) -> int:
        return int(self.memory(address)[0]) if address else 0

    def memory(self, address: int) -> np.ndarray:
        return np.ctypeslib.as_array((np.ctypeslib.ctypes.c_int64 * (STATE // 8)).from_address(address))


def held(sequence: PagedSequence) -> list[int]:
    assert sequence.states is not None
    return [each.length for each in sequence.states.kept]


def test_a_state_is_carried_on_and_every_prompts_end_is_kept() -> None:
    sums = Sums()
    one = sums.open()
    sums.run(one, [1, 2, 3])
    assert (sums.value(one), held(one)) == (6, [])
    sums.run(one, [4, 5])
    sums.run(one, [6])
    assert (sums.value(one), held(one)) == (21, [3, 5])
    for token in range(10):  # one at a time in place
        sums.run(one, [token])
    assert (sums.value(one), held(one)) == (66, [3, 5])
    assert sums.pool.used == 3 * STATE + 4 * PAGE
    one.close()
    assert sums.pool.used == 0


def test_a_long_answer_keeps_states_and_drops_the_least_useful() -> None:
    sums = Sums()
    one = sums.open()
    for _ in range(20 * SPACING):
        sums.run(one, [1])
        assert len(held(one)) <= MOST_STATES
    assert held(one)[-1] > 19 * SPACING - 2
    for length in (20 * SPACING - 1, 12 * SPACING):
        back = one.truncate(length)
        assert 0 < back <= length and sums.value(one) == back


def test_more_late_states_are_kept_than_early_ones() -> None:
    lengths: list[int] = []
    for length in range(100, 10_000, 100):
        lengths.append(length)
        place = least_useful(lengths, length + 100)
        if place is not None:
            assert place < len(lengths) - 1
            del lengths[place]
    assert len(lengths) == MOST_STATES and lengths[-1] == 9900 and lengths[-2] >= 9500 and lengths[0] < 9000
    assert least_useful([1, 2], 3) is None


@pytest.mark.parametrize("length, kept", [(8, 7), (7, 7), (6, 4), (4, 4), (3, 0), (0, 0)])
def test_truncation_goes_back_to_the_nearest_state_that_was_kept(length: int, kept: int) -> None:
    sums = Sums()
    one = sums.open()
    for part in ([1, 2, 3, 4], [5, 6, 7], [8], [9]):
        sums.run(one, part)
    assert one.truncate(length) == kept and one.length == kept
    assert sums.value(one) == sum(range(kept + 1))
    for token in range(kept + 1, 12):
        sums.run(one, [token])
    assert sums.value(one) == sum(range(12))
    assert one.truncate(kept) == kept  # it is still there
    one.close()
    assert sums.pool.used == 0


def test_forks_share_states_until_either_goes_on() -> None:
    sums = Sums()
    one = sums.open()
    sums.run(one, [1, 2])
    sums.run(one, [3])
    other = one.fork()
    assert sums.pool.used == 2 * STATE + PAGE
    for token in (4, 5):
        sums.run(one, [token])
    sums.run(other, [40])
    assert (sums.value(one), sums.value(other)) == (15, 46)
    one.close()
    assert other.truncate(2) == 2 and sums.value(other) == 3
    other.close()
    assert sums.pool.used == 0


def test_a_fork_of_what_was_set_aside_does_not_write_into_it() -> None:
    sums = Sums()
    one = sums.open()
    sums.run(one, [1])
    one.reserve(1)
    other = one.fork()
    sums.run(one, [2])
    assert (sums.value(one), sums.value(other)) == (3, 1)


@pytest.mark.parametrize("tokens, kept", [([3, 4], 2), ([3], 2)])
def test_an_interrupted_run_is_cut_back_to_what_is_whole(tokens: list[int], kept: int) -> None:
    sums = Sums()
    one = sums.open()
    sums.run(one, [1, 2])
    sums.run(one, tokens, interrupted=True)
    assert one.truncate(one.length) == kept and sums.value(one) == 3
    sums.run(one, [3])
    sums.run(one, [4], interrupted=True)  # in place: its state is gone
    assert one.truncate(3) == 2 and sums.value(one) == 3
    one.close()
    assert sums.pool.used == 0


def test_without_room_states_are_not_kept_and_those_kept_are_given_up() -> None:
    sums = Sums(3 * STATE + 3 * PAGE)
    one = sums.open()
    sums.run(one, [1, 2])
    sums.run(one, [3, 4])
    assert held(one) == []  # more than half of the pool would be in use
    roomy = Sums(6 * STATE - PAGE)
    other = roomy.open()
    roomy.run(other, [1, 2])
    roomy.run(other, [3, 4])
    assert held(other) == [2]
    roomy.run(other, [5] * 28)
    assert held(other) == [] and roomy.value(other) == 150
    with pytest.raises(PoolFull):
        roomy.run(other, [1] * 16)
    assert roomy.value(other) == 150 and other.length == 32


def test_a_window_that_has_passed_the_state_sends_it_to_the_beginning() -> None:
    sums = Sums(window=2)
    one = sums.open()
    sums.run(one, [1, 2])
    for _ in range(SPACING + 60):
        sums.run(one, [1])
    sums.run(one, [1, 1])
    (first, *_) = held(one)
    assert first == 2 and one.truncate(first) == 0 and sums.value(one) == 0
    one.close()
    assert sums.pool.used == 0


def test_a_new_sequence_costs_its_pages_and_a_state() -> None:
    assert cost(PagePool([PAGE, STATE], 1 << 20), [0], 4, 9) == 3 * PAGE + STATE


@pytest.mark.parametrize(
    "length, tokens, first",
    [(0, 100, 0), (0, 128, 0), (0, 129, 128), (0, 300, 256), (100, 28, 0), (100, 40, 28), (130, 100, 0), (127, 2, 1)],
)
def test_the_end_of_a_prompt_is_cut_at_the_last_border(length: int, tokens: int, first: int) -> None:
    assert border(length, tokens) == first


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["run", "run", "token", "token", "cut", "fork", "break", "close"]),
        st.integers(0, 5),
        st.integers(1, 40),
    ),
    max_size=60,
)


@given(steps=STEPS, limit=st.integers(6, 60))
def test_whatever_is_done_a_state_is_that_of_the_sequences_tokens(
    steps: list[tuple[str, int, int]], limit: int
) -> None:
    """Runs, tokens, cuts, forks, interrupted runs and ends of any sequences, in pools that are soon full."""
    sums = Sums(limit * STATE)
    known: list[tuple[PagedSequence, list[int]]] = [(sums.open(), [])]
    for step, which, count in steps:
        sequence, tokens = known[which % len(known)]
        try:
            if step in ("run", "token", "break"):
                more = [count + i for i in range(1 if step == "token" else count)]
                sums.run(sequence, more, interrupted=step == "break")
                if step == "break":
                    del tokens[sequence.truncate(sequence.length) :]
                else:
                    tokens += more
            elif step == "cut":
                kept = sequence.truncate(max(0, len(tokens) - count))
                assert kept <= max(0, len(tokens) - count)
                del tokens[kept:]
            elif step == "fork":
                known.append((sequence.fork(), list(tokens)))
            elif len(known) > 1:
                sequence.close()
                known.remove((sequence, tokens))
        except PoolFull:
            pass
        for each, numbers in known:
            assert each.length == len(numbers) and sums.value(each) == sum(numbers)
            assert len(held(each)) <= MOST_STATES
    for each, _ in known:
        each.close()
    assert sums.pool.used == 0


def test_kernels_and_engine_agree_on_a_run() -> None:
    from ggq.engine.batch import STATE_WORDS

    text = (ROOT / "kernels" / "ggq_kernels" / "scan" / "operands.py").read_text()
    assert STATE_WORDS == text.split("class RunWords")[1].split("CONV")[0].count(": int = ")
