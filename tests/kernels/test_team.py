"""The team of threads: it finishes, sleeps when idle, survives fork and exit, and never changes a result."""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from ggq_kernels.code.compiled import op
from ggq_kernels.run import calls, cores
from ggq_kernels.run.team import COUNT, SLEEPERS, fetch_add, take
from ggq_kernels.run.threads import Team, aligned_zeros
from ggq_kernels.vector.simd import read_i64, write_i64
from tests.kit.kernel_support import Floats, address, count, once, output
from tests.kit.support import run_python

pytestmark = pytest.mark.kernels

ADDED, ITEMS, SEEN, HELPERS = 8, 16, 24, 32


@pytest.fixture(autouse=True)
def end_a_deadlock() -> Iterator[None]:
    """Threads that wait for each other for ever would hang the whole suite: show where, and end it."""
    faulthandler.dump_traceback_later(240, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def pair() -> Iterator[Team]:
    team = Team(2)
    yield team
    team.close()


@op
def add_items(row, team):
    """Add 1 to the word at ADDED for each of ITEMS items that this thread takes."""
    while take(team, 1) < read_i64(row + ITEMS):
        fetch_add(read_i64(row + ADDED), 1)


@op
def double(row, team):
    """Double the word at ADDED, once."""
    if take(team, 1) == 0:
        word = read_i64(row + ADDED)
        write_i64(word, 2 * read_i64(word))


def tape(word: np.ndarray, *items: int) -> np.ndarray:
    """A row for each number: that many items, or a doubling for a negative one."""
    rows = [
        calls.row(double if n < 0 else add_items, {ADDED: address(word), **({} if n < 0 else {ITEMS: n})})
        for n in items
    ]
    return np.ascontiguousarray(np.stack(rows))


@pytest.mark.parametrize("threads", [1, 2, 1000])
def test_each_item_is_done_once_and_rows_in_order(threads: int) -> None:
    team, word = Team(threads), np.zeros(1, np.int64)
    team.run(tape(word, 3, -1, 1000, -1, 0, 1))
    assert word[0] == 2 * (2 * 3 + 1000) + 1
    team.run(tape(word, 5, -1, 7), first=1, last=2)
    assert word[0] == 2 * (2 * (2 * 3 + 1000) + 1)
    team.close()


@op
def count_helpers(row, team):
    """Add to the word at HELPERS for each thread beyond the first that computes this row."""
    if fetch_add(read_i64(row + SEEN), 1) > 0:
        fetch_add(read_i64(row + HELPERS), 1)
    while True:  # a helper that may join has the time for it, on a busy machine too (some tenths of a second)
        if fetch_add(read_i64(row + SEEN), 0) > 1 or take(team, 1) > 30_000_000:
            return


@pytest.mark.parametrize("tokens, joined", [(1, 0), (2, 1)])
def test_a_row_of_few_tokens_is_the_leaders_alone(pair: Team, tokens: int, joined: int) -> None:
    if pair.threads < 2:
        pytest.skip("needs two cores")
    number, seen, helpers = count(tokens), np.zeros(1, np.int64), np.zeros(1, np.int64)
    operands = {COUNT: address(number), SEEN: address(seen), HELPERS: address(helpers)}
    pair.run(np.stack([calls.row(count_helpers, operands, alone=1)]))
    assert helpers[0] == joined


def test_as_many_threads_as_cores_and_no_more_than_processors() -> None:
    most, default = cores.available_cores(), cores.physical_cores()
    assert most == (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    for asked, given in ((1, 1), (most, most), (most + 1, most), (10**6, most), (None, default), (0, default)):
        team, before = Team(asked), threading.active_count()
        assert team.threads == given
        team.close()
        assert before >= given


def test_twenty_thousand_operations_that_do_nothing(pair: Team) -> None:
    """Barriers alone, in tapes of many rows and of one."""
    word = np.zeros(1, np.int64)
    pair.run(tape(word, *[0] * 10_000))
    single = tape(word, 0)
    for _ in range(10_000):
        pair.run(single)
    pair.run(tape(word, 9))
    assert word[0] == 9


def test_a_tape_without_rows_is_no_tape(pair: Team) -> None:
    word = np.zeros(1, np.int64)
    rows = tape(word, -1, 1)
    for i in range(1, 200):
        pair.run(rows, first=1, last=1)
        pair.run(rows[:0])
        pair.run(rows, first=1)
        assert word[0] == i


def test_an_idle_team_sleeps(pair: Team) -> None:
    """Helpers spin for a moment, then sleep in the kernel until the next tape wakes them."""
    word = np.zeros(1, np.int64)
    pair.run(tape(word, 1))
    sleepers = pair._state[SLEEPERS : SLEEPERS + 8].view(np.int64)
    for _ in range(1000):
        if sleepers[0] == pair.threads - 1:
            break
        threading.Event().wait(0.01)
    assert sleepers[0] == pair.threads - 1
    pair.run(tape(word, 1))
    assert word[0] == 2


def test_close_ends_the_threads_and_leaves_the_caller() -> None:
    before = set(threading.enumerate())
    team, word = Team(2), np.zeros(1, np.int64)
    team.run(tape(word, 10))
    helpers = [t for t in threading.enumerate() if t not in before and t.name.startswith("ggq-")]
    assert len(helpers) == team.threads - 1
    team.close()
    for helper in helpers:
        helper.join(timeout=60)
        assert not helper.is_alive()
    team.close()
    team.run(tape(word, 10))
    assert word[0] == 20


def test_teams_in_two_python_threads_at_once() -> None:
    x = np.random.default_rng(1).standard_normal((50, 512)).astype(np.float32)
    backwards, tokens, wrong = np.arange(49, -1, -1, dtype=np.int64), count(50), []

    def work() -> None:
        team, a, b = Team(2), Floats(x), output(50, 512)
        pair = [calls.select_row(address(tokens), s.rows, t.rows, address(backwards)) for s, t in ((a, b), (b, a))]
        rows = np.ascontiguousarray(np.stack(pair * 20))
        for _ in range(20):
            team.run(rows)
        team.close()
        if not (np.array_equal(a.values, x) and np.array_equal(b.values, x[::-1])):
            wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_one_team_in_two_python_threads_at_once(pair: Team) -> None:
    word = np.zeros(1, np.int64)
    rows = tape(word, *[3] * 50)

    def work() -> None:
        for _ in range(50):
            pair.run(rows)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert word[0] == 2 * 50 * 50 * 3


SETUP = """
import os, signal
import numpy as np
from ggq_kernels.run.team import SLEEPERS
from ggq_kernels.run.threads import Team
from tests.kernels.test_team import tape
word = np.zeros(1, np.int64)
team = Team(2)
team.run(tape(word, 10))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_computes_with_threads_of_its_own() -> None:
    """The helpers stay with the parent; both go on, with the team they had and with a new one."""
    code = """
signal.alarm(60)
child = os.fork()
for who in (team, Team(2)):
    for n in (5, 7):
        who.run(tape(word, n))
assert word[0] == 34, word
team.close()
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("both")
else:
    os._exit(0)
"""
    done = run_python("-W", "ignore::DeprecationWarning", "-c", SETUP + code)
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr


@once
@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "del team", "team.close()"])
def test_the_interpreter_ends_whatever_the_team_does(end: str) -> None:
    done = run_python("-c", SETUP + end)
    assert (done.returncode, done.stderr) == (0, "")


def test_memory_is_aligned_and_zero() -> None:
    for size, to in ((1, 64), (1000, 64), (10, 4096)):
        memory = aligned_zeros(size, to)
        assert memory.size == size and memory.ctypes.data % to == 0 and not memory.any()
