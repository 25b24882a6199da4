"""Sequences of the compiled executor against the NumPy one: batches of unequal lengths, forks, cuts, a full cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.engine.numba_executor import NumbaExecutor
from ggq.errors import UsageError
from ggq.format import open_reader
from ggq.generate.loading import load, roles_to_names
from ggq.models.build import build_program
from ggq.models.metadata import from_metadata
from ggq.tape.program import Run
from tests.kit.small_models import CONFIGS, checkpoint, prompt, write_ggq

pytestmark = pytest.mark.kernels

CONFIG = {**CONFIGS["grouped"], "max_position_embeddings": 600}
TOKENS = prompt(CONFIG, 600)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ggq(tmp_path_factory.mktemp("m") / "m.ggq", CONFIG, checkpoint(CONFIG), "f32")


@pytest.fixture(scope="module")
def both(path: Path) -> Iterator[list[Any]]:
    """The compiled executor and the oracle."""
    with load(path) as fast, load(path, interpreter="numpy") as slow:
        yield [fast.executor, slow.executor]


def append(executor: Any, *runs: tuple[int, list[int], str]) -> np.ndarray:
    return np.asarray(executor.forward([Run(s, np.array(tokens, np.int32), logits) for s, tokens, logits in runs]))


def agree(results: list[np.ndarray]) -> None:
    fast, slow = results
    assert fast.shape == slow.shape
    assert np.abs(fast - slow).max() < 5e-6 * np.abs(slow).max()


def test_a_history_of_forks_and_cuts_is_that_of_the_oracle(both: list[Any]) -> None:
    """Random appends of unequal lengths in batches, forks and cuts, over the edges of pages."""
    rng, ids = np.random.default_rng(6), [[executor.open_sequence() for executor in both] for _ in range(3)]
    for step in range(40):
        if step % 4 == 1:
            place = int(rng.integers(len(ids)))
            ids.append([executor.fork(s) for executor, s in zip(both, ids[place])])
        if step % 4 == 3:
            place = int(rng.integers(len(ids)))
            length = int(both[0].length(ids[place][0]) * rng.random())
            assert [executor.truncate(s, length) for executor, s in zip(both, ids[place])] == [length, length]
        chosen = rng.permutation(len(ids))[:4]
        runs = []
        for place in chosen:
            count = int(rng.choice([1, 1, 2, 17, 60, 130]))
            start = int(rng.integers(600 - count))
            if both[0].length(ids[place][0]) + count <= 600:
                runs.append((place, TOKENS[start : start + count], str(rng.choice(["all", "last", "none"]))))
        results = []
        for which, executor in enumerate(both):
            results.append(append(executor, *((ids[place][which], *rest) for place, *rest in runs)))
        if results[1].size:
            agree(results)
        assert [both[0].length(s[0]) for s in ids] == [both[1].length(s[1]) for s in ids]
    for pair in ids:
        for executor, sequence in zip(both, pair):
            executor.close_sequence(sequence)
    assert both[0]._pool.used == 0


def test_a_cut_sequence_gives_the_bits_of_a_fresh_one(both: list[Any]) -> None:
    executor = both[0]
    whole, again = executor.open_sequence(), executor.open_sequence()
    append(executor, (whole, TOKENS[:300], "none"))
    fork = executor.fork(whole)
    executor.truncate(whole, 131)
    expected = append(executor, (again, TOKENS[:131] + TOKENS[400:500], "all"))[131:]
    np.testing.assert_array_equal(append(executor, (whole, TOKENS[400:500], "all")), expected)
    np.testing.assert_array_equal(
        append(executor, (fork, TOKENS[300:310], "all")),
        append(executor, (executor.open_sequence(), TOKENS[:310], "all"))[300:],
    )


def test_caches_in_groups_of_their_own_give_the_same_bits(path: Path, both: list[Any]) -> None:
    """The second layer's cache has a spec of its own, so each group has its pages, tables and runs."""
    with open_reader(path) as reader:
        config = from_metadata(reader.metadata, reader.path)
        program = build_program(config)
        first, second = program.caches
        parted = replace(program, caches=(first, replace(second, window=4096)))
        executor = NumbaExecutor(parted, reader, roles_to_names(reader, config), cache="f32")
        ids = [[each.open_sequence() for _ in range(2)] for each in (executor, both[0])]
        for start, runs in ((0, (5, 300)), (300, (1, 1)), (301, (130, 2))):
            results = []
            for each, sequences in zip((executor, both[0]), ids):
                batch = [(s, TOKENS[start : start + n], "all") for s, n in zip(sequences, runs)]
                results.append(append(each, *batch))
            np.testing.assert_array_equal(*results)
        fork = executor.fork(ids[0][1])
        executor.truncate(fork, 250)
        results = [append(executor, (fork, TOKENS[:70], "all"))]
        both[0].truncate(ids[1][1], 250)
        results.append(append(both[0], (ids[1][1], TOKENS[:70], "all")))
        np.testing.assert_array_equal(*results)
        assert len(executor._pool.page_bytes) == 2 and sum(executor._pool.page_bytes) == both[0]._pool.page_bytes[0]
        executor.close()
    for sequence in ids[1]:
        both[0].close_sequence(sequence)


def test_a_full_cache_is_refused_before_anything_is_appended(path: Path) -> None:
    with load(path) as model:
        made: Any = model.executor
        page = made._pool.page_bytes[0]
    with load(path, cache_bytes=3 * page) as model:
        executor: Any = model.executor
        assert isinstance(executor, NumbaExecutor) and executor.room() == 3 * page
        one, other = executor.open_sequence(), executor.open_sequence()
        append(executor, (one, TOKENS[:200], "none"))
        assert executor.cost(200) == 2 * page and executor.room() == page
        assert not executor.reserve(other, 129) and executor.reserve(other, 128)
        with pytest.raises(UsageError, match=r"the cache is full: .* and .* more are needed\nclose sequences"):
            append(executor, (one, TOKENS[:100], "none"), (other, TOKENS[:20], "last"))
        assert (executor.length(one), executor.length(other)) == (200, 0)
        executor.close_sequence(other)
        append(executor, (one, TOKENS[:100], "none"))
        assert executor.length(one) == 300


def test_a_closed_executor_says_so(path: Path) -> None:
    model = load(path)
    executor: Any = model.executor
    sequence = executor.open_sequence()
    executor.close()
    executor.close()
    for call in (lambda: append(executor, (sequence, [1], "last")), lambda: executor.time_steps([])):
        with pytest.raises(UsageError, match="the executor is closed"):
            call()
    model.close()
