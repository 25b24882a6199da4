"""Each sampling step by the property that defines it."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq.errors import ModelError, UsageError
from ggq.generate.sampling import Sampler, Sampling, penalized, resolve, softmax, top_k, top_p

LOGITS = np.log(np.array([0.5, 0.25, 0.125, 0.0625, 0.0625], dtype=np.float32))


def draws(count: int, logits: np.ndarray = LOGITS, **how: Any) -> Counter[int]:
    sampler = Sampler(Sampling(**{"temperature": 1.0, "seed": 7, **how}))
    return Counter(sampler.choose(logits, ()) for _ in range(count))


def test_greedy_takes_the_most_likely_and_of_equals_the_first() -> None:
    assert draws(3, temperature=0.0) == {0: 3}
    assert draws(3, np.array([0, 1, 1], dtype=np.float32), temperature=0.0) == {1: 3}


def test_chances_are_those_of_the_softmax() -> None:
    found = draws(20000)
    for token, chance in enumerate(np.exp(LOGITS)):
        assert abs(found[token] - 20000 * chance) < 5 * np.sqrt(20000 * chance)


def test_temperature_sharpens_and_flattens() -> None:
    assert np.allclose(softmax(LOGITS, 0.5), softmax(2 * LOGITS, 1.0))
    assert draws(4000, temperature=0.25)[0] > draws(4000)[0] > draws(4000, temperature=4.0)[0]
    assert draws(50, temperature=1e-6) == {0: 50}


def test_top_k_keeps_the_k_largest() -> None:
    assert set(draws(2000, top_k=2)) == {0, 1}
    assert draws(20, top_k=1) == {0: 20}
    assert set(draws(2000, top_k=4)) == {0, 1, 2, 3}  # of two equal ones the first
    assert set(draws(2000, top_k=99)) == set(range(5))


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    assert set(draws(2000, top_p=0.74)) == {0, 1}
    assert set(draws(2000, top_p=0.76)) == {0, 1, 2}
    assert set(draws(2000, top_p=0.49)) == {0}
    assert set(draws(20, top_p=0.0)) == {0}


def test_min_p_keeps_what_is_near_the_likeliest() -> None:
    assert set(draws(2000, min_p=0.24)) == {0, 1, 2}
    assert set(draws(2000, min_p=0.26)) == {0, 1}
    assert set(draws(20, min_p=1.0)) == {0}


def test_repetition_penalty_lowers_what_occurred_whatever_its_sign() -> None:
    logits = np.array([2.0, -2.0, 1.0], dtype=np.float32)
    assert penalized(logits, np.array([0, 1]), 2.0).tolist() == [1.0, -4.0, 1.0]
    assert logits.tolist() == [2.0, -2.0, 1.0]
    sampler = Sampler(Sampling(repetition_penalty=2.5))
    assert sampler.choose(logits, {0}) == 2 and sampler.choose(logits, ()) == 0


def test_the_steps_follow_the_documented_order() -> None:
    # Of what top-k leaves (2/3 and 1/3), top-p 0.6 keeps the first alone; the other order would keep both.
    assert set(draws(500, top_k=2, top_p=0.6)) == {0}
    # At temperature 0.5 the first has 0.73, so top-p 0.7 keeps it alone; before the temperature it would keep two.
    assert set(draws(500, temperature=0.5, top_p=0.7)) == {0}


def test_a_seed_repeats_and_another_differs() -> None:
    def text(seed: int, stream: int = 0) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed), stream)
        return [sampler.choose(LOGITS, ()) for _ in range(50)]

    assert text(1) == text(1) != text(2)
    assert text(1, 1) != text(1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40), st.integers(1, 45))
def test_top_k_is_a_stable_sort_cut_off(values: list[int], count: int) -> None:
    logits = np.array(values, dtype=np.float32)
    expected = sorted(np.argsort(-logits, kind="stable")[:count].tolist())
    assert top_k(logits, count).tolist() == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 64), min_size=1, max_size=40), st.floats(0, 0.999))
def test_top_p_is_the_smallest_set_that_reaches_it(weights: list[int], share: float) -> None:
    chances = np.array(weights) / sum(weights)
    order = np.argsort(-chances, kind="stable")
    size = next((n for n in range(1, len(order)) if chances[order[:n]].cumsum()[-1] >= share), len(order))
    assert top_p(chances, share).tolist() == order[:size].tolist()


def test_a_large_vocabulary_is_quick() -> None:
    logits = np.random.default_rng(0).normal(size=128256).astype(np.float32) * 3
    sampler = Sampler(Sampling(1.1, 0.8, 50, 0.95, 0.05, seed=1))
    start = time.perf_counter()
    for _ in range(10):
        sampler.choose(logits, {1, 2, 3})
    assert time.perf_counter() - start < 1.0  # about 0.02 s; a full sort each time would take 0.1 s


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(ModelError, match=rf"the model computed {value} where finite numbers are expected"):
        Sampler(Sampling()).choose(np.array([0, value, 1], dtype=np.float32), ())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", -1, "temperature is -1, a number from 0 to 1000 is allowed"),
        ("temperature", float("nan"), "temperature is nan, a number from 0 to 1000 is allowed"),
        ("top_p", 1.5, "top_p is 1.5, a number from 0 to 1 is allowed"),
        ("min_p", "x", "min_p is 'x', a number from 0 to 1 is allowed"),
        ("repetition_penalty", 0, "repetition_penalty is 0, a number from 0.01 to 100 is allowed"),
        ("top_k", -1, "top_k is -1, a whole number from 0 on is allowed"),
        ("top_k", 1.5, "top_k is 1.5, a whole number from 0 on is allowed"),
        ("seed", -5, "seed is -5, a whole number from 0 on is allowed"),
    ],
)
def test_options_out_of_range_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Sampling(**{name: value})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", np.float32(0.5), 0.5),
        ("temperature", np.int64(1), 1.0),
        ("top_p", np.float64(0.9), 0.9),
        ("top_k", np.int32(4), 4),
        ("seed", np.uint8(200), 200),
    ],
)
def test_numbers_of_numpy_are_numbers(name: str, value: Any, expected: float) -> None:
    found = getattr(Sampling(**{name: value}), name)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value"), [("top_k", np.bool_(True)), ("top_k", np.float64(3)), ("top_p", np.array(0.5)), ("seed", 1 + 0j)]
)
def test_what_is_no_number_is_refused_from_numpy_too(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"{name} is .*number from"):
        Sampling(**{name: value})


MODEL = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1}


@pytest.mark.parametrize(
    ("given_options", "defaults", "expected"),
    [
        ({}, {}, Sampling()),
        ({"temperature": None, "seed": None}, {}, Sampling()),
        ({"seed": 3}, {}, Sampling(temperature=1.0, seed=3)),
        ({"top_p": 0.5}, {}, Sampling(temperature=1.0, top_p=0.5)),
        ({}, MODEL, Sampling(1.1, 0.6, 20, 0.9)),
        ({"temperature": 0.0}, MODEL, Sampling(1.1, 0.0, 20, 0.9)),
        ({"top_k": 5, "seed": 1}, MODEL, Sampling(1.1, 0.6, 5, 0.9, seed=1)),
        ({}, {**MODEL, "do_sample": False}, Sampling(1.1)),
        ({"temperature": 0.5}, {"top_p": 0.9}, Sampling(temperature=0.5, top_p=0.9)),
        ({}, {"do_sample": True, "temperature": "hot", "top_p": 7, "top_k": None}, Sampling(temperature=1.0)),
    ],
)
def test_the_caller_wins_over_the_model(given_options: dict[str, Any], defaults: Any, expected: Sampling) -> None:
    assert resolve(given_options, defaults) == expected
