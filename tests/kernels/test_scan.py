"""The gated delta rule and the scan of Mamba-2: runs of several sequences, their states, sizes of all kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ggq.tape.buffers import Buffer
from ggq.tape.caches import StateSpec
from ggq.tape.ops import GatedDelta, Mamba2
from ggq.tape.reference import StateCache
from ggq_kernels.code.compiled import op
from ggq_kernels.run import calls
from ggq_kernels.scan.chunks import CHUNK, LEAST_TOKENS
from ggq_kernels.vector.functions import sigmoid, softplus
from ggq_kernels.vector.simd import load_f32, read_i64, store_f32
from tests.kernels.test_gate import computed
from tests.kit.kernel_support import UNIT, UNTOUCHED, Floats, address, count, output, run
from tests.kit.row_oracle import meaning

pytestmark = pytest.mark.kernels

SIZES = [(4, 2, 10, 14), (2, 2, 128, 128), (6, 1, 33, 64), (3, 3, 16, 96), (1, 1, 1, 1)]
"""Heads, key heads, numbers of a key and of a value."""


class Scan:
    """An operation with random weights, computed by the kernel run by run.

    Args:
        rule: "delta" or "ssm".
        sizes: See SIZES.
    """

    def __init__(self, rule: str, sizes: tuple[int, int, int, int]) -> None:
        self.rule, self.sizes = rule, calls.ScanSizes(*sizes)
        heads, key_heads, key_dim, value_dim = sizes
        rng = np.random.default_rng(sum(sizes))
        self.weights = {"speed": rng.uniform(-4, 1, heads), "shift": rng.uniform(-1, 1, heads)}
        self.weights["skip"] = rng.uniform(-1, 1, heads)
        self.weights = {name: values.astype(np.float32) for name, values in self.weights.items()}
        self.width = 2 * key_heads * key_dim + heads * value_dim
        self.buffers = [Buffer("mixed", self.width), Buffer("step", heads), Buffer("rate", heads)]
        self.out = Buffer("out", heads * value_dim)
        self.numbers = StateSpec((heads, key_dim, value_dim)).numbers(calls.LANES)

    def op(self) -> Any:
        sizes = self.sizes.heads, self.sizes.key_heads
        mixed, step, rate = self.buffers
        if self.rule == "delta":
            own = self.sizes.key_dim, self.sizes.value_dim
            return GatedDelta(0, mixed, step, rate, self.out, "speed", "shift", *sizes, *own)
        own = self.sizes.value_dim, self.sizes.key_dim
        return Mamba2(0, mixed, step, self.out, "speed", "shift", "skip", *sizes, *own, *LIMITS)

    def expected(self, values: list[np.ndarray]) -> np.ndarray:
        wanted = self.op()
        cache = StateCache(StateSpec(wanted.state_shape))
        return meaning(wanted, self.out, dict(zip(self.buffers, values)), self.weights, cache=cache)

    def values(self, rng: np.random.Generator, tokens: int) -> list[np.ndarray]:
        return [rng.standard_normal((tokens, buffer.width)).astype(np.float32) for buffer in self.buffers]

    def state(self) -> np.ndarray:
        return np.full(self.numbers + 16, np.nan, np.float32)

    def compute(self, runs: list[tuple[list[np.ndarray], np.ndarray | None, np.ndarray]], threads: int = 2) -> Any:
        """The results of runs, each of values, a state or None, and where the state goes."""
        whole = [np.concatenate([values[i] for values, *_ in runs]) for i in range(3)]
        n = len(whole[0])
        buffers, out, tokens, number = (
            [Floats(each) for each in whole],
            output(n, self.out.width),
            count(n),
            count(len(runs)),
        )
        words, first = np.zeros((len(runs), 4), np.int64), 0
        for i, (values, before, after) in enumerate(runs):
            words[i] = first, len(values[0]), 0 if before is None else address(before), address(after)
            first += len(values[0])
        speed = (-np.exp(self.weights["speed"].astype(np.float64)) * np.log2(np.e)).astype(np.float32)
        mixed, step, rate = (each.rows for each in buffers)
        where, shift = calls.StateRuns(address(number), address(words), 64), address(self.weights["shift"])
        if self.rule == "delta":
            row = calls.delta_row(
                address(tokens), where, mixed, step, rate, out.rows, self.sizes, address(speed), shift
            )
        else:
            others = address(speed), shift, address(self.weights["skip"]), LIMITS
            row = calls.ssm_row(address(tokens), where, mixed, step, out.rows, self.sizes, *others)
        run(row, threads=threads)
        assert (out.whole[:n, self.out.width :] == UNTOUCHED).all() and (out.whole[n:] == UNTOUCHED).all()
        return out.values.copy()


LIMITS = (0.2, 1.5)


@pytest.mark.parametrize("tokens", [LEAST_TOKENS - 1, LEAST_TOKENS, 3 * CHUNK + 1, 5 * CHUNK - 3])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("rule", ["delta", "ssm"])
def test_a_scan_is_the_operations(rule: str, sizes: tuple[int, int, int, int], tokens: int) -> None:
    """Each number of a state is a sum of products that was rounded once for each token or more seldom, and is read by
    sums over key_dim, with functions of 1e-6: all that has not decayed counts."""
    scan = Scan(rule, sizes)
    given = scan.values(np.random.default_rng(1), tokens)
    found, expected = scan.compute([(given, None, scan.state())]), scan.expected(given)
    bound = ((sizes[2] + min(tokens, 40)) * UNIT + 2e-6) * np.abs(expected).max() * 4
    assert np.abs(found - expected).max() <= bound
    assert np.abs(expected).max() > 0.01


@pytest.mark.parametrize("speed", [-9.0, 9.0])
@pytest.mark.parametrize("rule", ["delta", "ssm"])
def test_states_that_hardly_decay_or_are_gone_at_once(rule: str, speed: float) -> None:
    """Over chunks, whose products of what is left become 1 or less than any float32."""
    scan = Scan(rule, SIZES[0])
    scan.weights["speed"][:] = speed
    scan.weights["speed"][0] = 0.0
    given = scan.values(np.random.default_rng(7), 4 * CHUNK + 5)
    given[1][::9] -= 30  # tokens that leave all as it is
    found, expected = scan.compute([(given, None, scan.state())]), scan.expected(given)
    bound = ((10 + len(given[0])) * UNIT + 2e-6) * np.abs(expected).max() * 4
    assert np.abs(found - expected).max() <= bound


@pytest.mark.parametrize("sizes", SIZES[:3])
@pytest.mark.parametrize("rule", ["delta", "ssm"])
def test_tokens_beside_each_other_and_one_after_the_other_give_the_same_bits(
    rule: str, sizes: tuple[int, int, int, int]
) -> None:
    """In place or into another state, whatever is computed beside them, as long as they are few."""
    scan, rng = Scan(rule, sizes), np.random.default_rng(2)
    one, other = scan.values(rng, LEAST_TOKENS - 1), scan.values(rng, 6)
    whole = [scan.compute([(each, None, scan.state())]) for each in (one, other)]
    states, third = [scan.state(), scan.state()], scan.state()
    part = [each[:2] for each in one], [each[:5] for each in other]
    first = scan.compute([(part[0], None, states[0]), (part[1], None, states[1])])
    fourth = [each[5:] for each in other]
    more = scan.compute([([each[2:3] for each in one], states[0], states[0]), (fourth, states[1], third)], threads=1)
    kept = third.copy()
    last = scan.compute([([each[3:] for each in one], states[0], third)])
    np.testing.assert_array_equal(np.concatenate([first[:2], more[:1], last]), whole[0])
    np.testing.assert_array_equal(np.concatenate([first[2:], more[1:]]), whole[1])
    assert np.isfinite(kept[16:]).all() and np.isnan(kept[:16]).all()  # another state lies before it


@pytest.mark.parametrize("sizes", [*SIZES[:3], (6, 1, 20, 20)])
@pytest.mark.parametrize("rule", ["delta", "ssm"])
def test_runs_cut_at_borders_of_chunks_give_the_same_bits(rule: str, sizes: tuple[int, int, int, int]) -> None:
    """For any number of threads, in place or not, and whatever is computed beside them."""
    scan, rng = Scan(rule, sizes), np.random.default_rng(5)
    given, other = scan.values(rng, 3 * CHUNK + 9), scan.values(rng, CHUNK + 1)
    states = [scan.state() for _ in range(4)]
    whole = scan.compute([(given, None, states[0])], threads=1)
    cut = [[each[part] for each in given] for part in (slice(0, CHUNK), slice(CHUNK, None))]
    first = scan.compute([(other, None, states[1]), (cut[0], None, states[2])])
    last = scan.compute([(cut[1], states[2], states[3])])
    np.testing.assert_array_equal(np.concatenate([first[CHUNK + 1 :], last]), whole)
    np.testing.assert_array_equal(states[3], states[0])
    scan.compute([(cut[1], states[2], states[2])])
    np.testing.assert_array_equal(states[2], states[0])


@pytest.mark.parametrize("rule", ["delta", "ssm"])
def test_runs_cut_anywhere_are_the_operations(rule: str) -> None:
    """Chunks and single tokens leave the same state but for rounding."""
    scan = Scan(rule, SIZES[0])
    scan.weights["speed"][:] = -5  # what was written long ago counts
    given = scan.values(np.random.default_rng(6), 100)
    state, found, expected = scan.state(), [], scan.expected(given)
    for start, stop in [(0, 1), (1, 30), (30, 31), (31, 38), (38, 99), (99, 100)]:
        found += [scan.compute([([each[start:stop] for each in given], state if start else None, state)])]
    bound = ((10 + 100) * UNIT + 2e-6) * np.abs(expected).max() * 4
    assert np.abs(np.concatenate(found) - expected).max() <= bound


@pytest.mark.parametrize("tokens", [6, CHUNK + 8])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", ["delta", "ssm"])
def test_what_is_not_finite_stays_so(rule: str, poison: float, place: int, tokens: int) -> None:
    """In the head that reads it and from its token on; other heads and earlier tokens have the same bits."""
    scan = Scan(rule, SIZES[0])
    given = scan.values(np.random.default_rng(3), tokens)
    clean = scan.compute([(given, None, scan.state())])
    if (rule, place) == ("ssm", 2):
        pytest.skip("a scan reads no rates")
    given[place][3, -1 if (rule, place) != ("ssm", 0) else 4 * 14 - 1] = poison  # of the last head's value
    found = scan.compute([(given, None, scan.state())])
    columns = slice(3 * 14, None) if place else slice(4 * 14 - 1, None)
    assert not np.isfinite(found[3:, columns]).any()
    found[3:, columns] = clean[3:, columns]
    np.testing.assert_array_equal(found, clean)


@pytest.mark.parametrize("tokens", [5, CHUNK + 8])
@pytest.mark.parametrize("place", [0, 20])
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_query_that_is_not_finite_makes_its_result_so_and_a_key_all_behind(
    poison: float, place: int, tokens: int
) -> None:
    scan = Scan("delta", SIZES[0])  # queries of two heads in columns 0 to 19, then keys
    given = scan.values(np.random.default_rng(4), tokens)
    given[0][2, place] = poison
    found = scan.compute([(given, None, scan.state())])
    assert not np.isfinite(found[2 : 3 if place == 0 else None, : 2 * 14]).any()
    assert np.isfinite(found[:2]).all() and np.isfinite(found[:, 2 * 14 :]).all()


def test_softplus_and_sigmoid_are_within_what_they_promise() -> None:
    x = np.concatenate([np.linspace(-80, 80, 200_000), np.linspace(-2, 2, 100_000)]).astype(np.float32)
    wide = x.astype(np.float64)
    expected = np.logaddexp(0, wide)
    exact = np.abs(wide) * np.log2(np.e) * np.log(2) * 2 * UNIT  # e**-|x| of a rounded exponent
    assert (np.abs(computed(softplus_of, x) - expected) <= (1e-6 + exact * (wide < 0)) * expected).all()
    share = 1 / (1 + np.exp(-wide))
    assert (np.abs(computed(sigmoid_of, x) - share) <= (1e-6 + exact) * share).all()
    odd = np.array([np.nan, np.inf, -np.inf, -np.nan] * 4, np.float32)
    assert not np.isfinite(computed(softplus_of, odd)).any() and not np.isfinite(computed(sigmoid_of, odd)).any()


@op
def softplus_of(row, team):
    """out = log(1 + e**x)"""
    n, source, out = read_i64(row + 8), read_i64(row + 16), read_i64(row + 24)
    for i in range(0, n, 16):
        store_f32(out + 4 * i, softplus(load_f32(source + 4 * i)))


@op
def sigmoid_of(row, team):
    """out = 1 / (1 + e**-x)"""
    n, source, out = read_i64(row + 8), read_i64(row + 16), read_i64(row + 24)
    for i in range(0, n, 16):
        store_f32(out + 4 * i, sigmoid(load_f32(source + 4 * i)))
