"""Methods that search: each one's defining property on seeded layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ggq.quant import METHODS, choose_method, decode, default_method, encode_tensor, parse_scheme
from ggq.quant.inputs import InputStatistics
from ggq.quant.methods import gptq, hqq, prepared, uses
from ggq.quant.methods.clip import Clip
from ggq.quant.methods.gptq import Gptq
from ggq.quant.methods.hqq import HQQ, POWER
from ggq.quant.methods.mse import Mse
from ggq.quant.reference import by_groups
from ggq.quant.search import steps as search

UNIFORM = ["q2-g64", "q3-g32", "q4-g128", "q8-g32", "q4-row", "q3z-g64", "q4z-row", "q2m-g32", "q4m-g64"]
TWO_LEVEL = ["q4-g32-s6", "q3-g32-s4", "q4m-g32-s6", "q2m-g32-s4"]
OTHERS = ["ternary-g64", "binary-g64", "c4-g64", "c3-g32", "c4-g32-s6"]
ROWS, COLUMNS = 48, 200
"""Columns are no multiple of any group, so the last group has padding."""


def layer(seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> NDArray[np.float32]:
    """Weights with a few outliers."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((rows, columns)) * 0.05
    weights[rng.random(weights.shape) < 0.005] *= 5
    return weights.astype(np.float32)


def inputs(seed: int = 1, columns: int = COLUMNS, mixed: bool = True, tokens: int = 2000) -> InputStatistics:
    """Statistics of inputs with columns of very different size, correlated if `mixed`."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, columns))
    if mixed:
        x = x @ (np.eye(columns) + rng.standard_normal((columns, columns)) * 1.5 / np.sqrt(columns))
    x *= np.exp(rng.standard_normal(columns))
    gram = x.T @ x / tokens
    if not mixed:
        gram = np.diag(gram.diagonal())
    largest, mean, square = np.abs(x).max(axis=0), x.mean(axis=0), np.square(x).mean(axis=0)
    return InputStatistics(tokens, *(each.astype(np.float32) for each in (largest, mean, square, gram)))


def output_error(weights: NDArray[np.float32], decoded: NDArray[np.float32], statistics: InputStatistics) -> float:
    """Mean square of the product's error over the calibration tokens, summed over rows."""
    assert statistics.gram is not None
    difference = decoded.astype(np.float64) - weights
    return float(np.einsum("rc,cd,rd->", difference, statistics.gram.astype(np.float64), difference, optimize=True))


def group_errors(weights: NDArray[np.float32], decoded: NDArray[np.float32], scheme: str) -> NDArray[np.float64]:
    """Sum of squared errors of each group."""
    difference = by_groups(weights - decoded, parse_scheme(scheme)).astype(np.float64)
    return np.square(difference).sum(axis=2)


@pytest.mark.parametrize("scheme", [*UNIFORM, *TWO_LEVEL, *OTHERS])
def test_mse_is_better_than_the_plain_method(scheme: str) -> None:
    weights, parsed = layer(), parse_scheme(scheme)
    plain = decode(choose_method(parsed).quantize(weights, parsed))
    searched = decode(Mse().quantize(weights, parsed))
    before, after = group_errors(weights, plain, scheme), group_errors(weights, searched, scheme)
    assert after.sum() <= before.sum() * (1 + 1e-6)
    if scheme in UNIFORM:  # each group has its own step: none is worse, but for the rounding of steps to f16
        assert (after <= before * 1.005 + 1e-9).all()
    if scheme not in ("q8-g32", "binary-g64"):
        assert after.sum() < 0.97 * before.sum()


@pytest.mark.parametrize("scheme", ["q2-g64", "q3-g32", "q4z-g64", "q3m-g64"])
def test_mse_is_near_the_best_of_an_exhaustive_search(scheme: str) -> None:
    weights, parsed = layer(3, 4, 128), parse_scheme(scheme)
    found = group_errors(weights, decode(Mse().quantize(weights, parsed)), scheme)
    group = weights.shape[1] // found.shape[1]
    parts = weights.reshape(*found.shape, group).astype(np.float64)
    best = [exhaustive(part, parsed.bits, parsed.zero) for row in parts for part in row]
    ratios = found.ravel() / best
    assert ratios.max() < 1.12 and ratios.mean() < 1.03


@pytest.mark.parametrize(
    "turns, schemes, gain",
    [
        ("TURNS", ["q2-g64"], 0.9997),
        ("TURNS", ["q2m-g32", "q4m-g64"], 0.996),
        ("TURNS_TWO_LEVEL", TWO_LEVEL[2:], 0.999),
    ],
)
def test_refitting_steps_and_codes_to_each_other_gains(
    turns: str, schemes: list[str], gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = layer()
    for scheme in map(parse_scheme, schemes):
        refitted = decode(Mse().quantize(weights, scheme))
        with monkeypatch.context() as patch:
            patch.setattr(search, turns, 0)
            once = decode(Mse().quantize(weights, scheme))
        before, after = (np.square(found - weights).sum(axis=1) for found in (once, refitted))
        assert after.sum() < gain * before.sum()


@pytest.mark.parametrize("scheme", ["q2-g32-s4", "q3-g32-s4", "q5-g32-s4", "c3-g32-s4", "q3z-g32-s4", "q2m-g32-s4"])
def test_no_row_gets_worse_by_another_turn(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, parsed, errors = layer(), parse_scheme(scheme), []
    for turns in range(4):
        monkeypatch.setattr(search, "TURNS_TWO_LEVEL", turns)
        errors.append(np.square(decode(Mse().quantize(weights, parsed)) - weights).sum(axis=1))
    assert (np.diff(errors, axis=0) <= 1e-6 * errors[0]).all()


def exhaustive(part: NDArray[np.float64], bits: int, zero: str) -> float:
    """The least squared error over a fine net of steps and shifts."""
    reach, best = np.abs(part).max(), np.inf
    half = 2 ** (bits - 1)
    for step in np.linspace(reach / half / 4, 2 * reach / half, 150):
        shifts = {"none": [half], "code": range(2**bits), "minimum": np.linspace(-1, 2**bits, 60)}[zero]
        for shift in shifts:
            codes = np.clip(np.rint(part / step + shift), 0, 2**bits - 1)
            best = min(best, float(np.square(step * (codes - shift) - part).sum()))
            if zero == "none":
                codes = np.clip(np.rint(-part / step + shift), 0, 2**bits - 1)
                best = min(best, float(np.square(step * (shift - codes) - part).sum()))
    return best


@pytest.mark.parametrize("scheme", ["q3-g64", "q3z-g64", "q3m-g32-s6", "c3-g64", "ternary-g64"])
def test_energy_moves_errors_to_where_they_matter_less(scheme: str) -> None:
    weights, parsed, statistics = layer(), parse_scheme(scheme), inputs(mixed=False)
    blind = decode(Mse().quantize(weights, parsed))
    weighted = decode(Mse().prepare(weights, parsed, statistics).quantize(weights, parsed))
    assert output_error(weights, weighted, statistics) < 0.9 * output_error(weights, blind, statistics)
    assert np.square(weights - weighted).sum() > np.square(weights - blind).sum()


def test_clip_counts_products_of_columns() -> None:
    weights, scheme = layer(), parse_scheme("q3-g64")
    rng = np.random.default_rng(5)
    x = rng.standard_normal((3000, COLUMNS)) + 2 * rng.standard_normal((3000, 1))  # all columns go together
    gram = (x.T @ x / 3000).astype(np.float32)
    blocks = np.zeros_like(gram)
    for start in range(0, COLUMNS, 64):
        blocks[start : start + 64, start : start + 64] = gram[start : start + 64, start : start + 64]
    statistics = replace(inputs(), mean_square=gram.diagonal().copy(), gram=gram)
    by_column = decode(Mse(statistics).quantize(weights, scheme))
    by_group = decode(Clip(statistics).quantize(weights, scheme))
    within = replace(statistics, gram=blocks)
    assert output_error(weights, by_group, within) < 0.9 * output_error(weights, by_column, within)


def group_powers(weights: NDArray[np.float32], decoded: NDArray[np.float32], scheme: str) -> NDArray[np.float64]:
    """Sum of powers of errors of each group, what HQQ makes small."""
    powers = (np.abs(decoded.astype(np.float64) - weights) ** POWER).astype(np.float32)
    return by_groups(powers, parse_scheme(scheme)).sum(axis=2, dtype=np.float64)


@pytest.mark.parametrize("scheme", ["q3-g64", "q4-g128", "q2z-g64", "q4z-g32", "q2m-g64", "q4m-g32-s6", "q3-row"])
def test_hqq_lowers_the_sum_of_powers_of_errors(scheme: str) -> None:
    weights, parsed = layer(), parse_scheme(scheme)
    plain = group_powers(weights, decode(choose_method(parsed).quantize(weights, parsed)), scheme)
    found = group_powers(weights, decode(HQQ().quantize(weights, parsed)), scheme)
    assert found.sum() < 0.97 * plain.sum()
    if not parsed.subscale:  # the first round is the plain method's; steps and minimums are rounded to f16
        assert (found <= 1.01 * plain + 1e-6).all()


@pytest.mark.parametrize("scheme", ["q2-g64", "q3z-g64", "q2m-g64"])
def test_hqq_shrinks_errors_before_it_fits(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that it is a fit by least squares, which outliers pull off."""
    weights, parsed = layer(), parse_scheme(scheme)
    found = group_powers(weights, decode(HQQ().quantize(weights, parsed)), scheme)
    monkeypatch.setattr(hqq, "BETA", 1e-9)  # nothing is taken off
    squares = group_powers(weights, decode(HQQ().quantize(weights, parsed)), scheme)
    assert found.sum() < 0.99 * squares.sum()


def test_hqq_keeps_zero_exact_under_zero_points() -> None:
    weights = layer()
    weights[:, ::3] = 0
    scheme = parse_scheme("q3z-g64")
    for method in (HQQ(), Mse(), Gptq(inputs())):
        found = decode(method.quantize(weights, scheme))
        if not isinstance(method, Gptq):  # whose feedback may move a zero on purpose
            assert (found[:, ::3] == 0).all()
        assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "name, schemes",
    {
        "absmax": ["q3-g32", "q3-g32-s6"],
        "zero-point": ["q3z-g32"],
        "min-max": ["q3m-g32", "q3m-g32-s6"],
        "kmeans": ["c3-g32"],
        "nf4": ["c4-g32"],
        "ternary": ["ternary-g32"],
        "binary": ["binary-g32"],
        "mse": ["q3-g32", "q3z-g32", "q3m-g32", "q3m-g32-s6", "c3-g32", "ternary-g32", "binary-g32"],
        "hqq": ["q3-g32", "q3z-g32", "q3m-g32", "q3m-g32-s6"],
        "clip": ["q3-g32", "q3z-g32", "q3m-g32", "q3m-g32-s6"],
        "gptq": ["q3-g32", "q3z-g32", "q3m-g32", "q3m-g32-s6", "c3-g32"],
    }.items(),
)
def test_padding_does_not_count(name: str, schemes: list[str]) -> None:
    """Weights of which a group has 8 get the codes of those that fill a group with four times the same."""
    rng = np.random.default_rng(10)
    short = rng.standard_normal((ROWS, 8)) * 0.05 + np.linspace(-0.5, 0.5, ROWS)[:, None]  # most do not reach 0
    short = short.astype(np.float32)
    repeated = np.tile(short, 4)

    def found(weights: NDArray[np.float32], scheme: str) -> NDArray[np.float32]:
        columns = weights.shape[1]
        one, gram = np.ones(columns, np.float32), np.eye(columns, dtype=np.float32)
        method = prepared(METHODS[name], weights, parse_scheme(scheme), InputStatistics(9, one, 0 * one, one, gram))
        return decode(method.quantize(weights, parse_scheme(scheme)))

    for scheme in schemes:
        assert found(short, scheme) == pytest.approx(found(repeated, scheme)[:, :8], rel=2e-3), scheme


@pytest.mark.parametrize("scheme", [*UNIFORM, *TWO_LEVEL, *OTHERS])
def test_gptq_beats_rounding_on_the_error_of_the_product(scheme: str) -> None:
    weights, parsed, statistics = layer(), parse_scheme(scheme), inputs()
    rounded = decode(Mse(statistics).quantize(weights, parsed))
    found = decode(Gptq(statistics).quantize(weights, parsed))
    assert output_error(weights, found, statistics) < 0.85 * output_error(weights, rounded, statistics)


@pytest.mark.parametrize("scheme", ["q3-g64", "q4z-g32", "q3m-g64", "q4-g32-s6", "q3-row", "c4-g64"])
def test_gptq_is_rounding_where_inputs_are_uncorrelated(scheme: str) -> None:
    weights, parsed, statistics = layer(), parse_scheme(scheme), inputs(mixed=False)
    rounded = Mse(statistics).quantize(weights, parsed)
    found = Gptq(statistics).quantize(weights, parsed)
    assert np.array_equal(found.codes, rounded.codes) and np.array_equal(found.scales, rounded.scales)


@pytest.mark.parametrize("columns", [64, 640])
def test_gptq_is_what_the_paper_says(columns: int) -> None:
    """Against the published loop, with the inverse of H and updates of all weights behind; one group."""
    weights, statistics = layer(7, 8, columns), inputs(8, columns)
    scheme = parse_scheme("q4-row")
    matrix = Gptq(statistics).quantize(weights, scheme)
    grid = Mse(statistics).quantize(weights, scheme)
    scale = grid.scales.astype(np.float64)[:, 0]
    assert statistics.gram is not None
    gram = statistics.gram.astype(np.float64)
    gram[np.diag_indices(columns)] += gptq.DAMPING * gram.diagonal().mean()
    order = np.argsort(-statistics.gram.diagonal(), kind="stable")
    work, gram = weights.astype(np.float64)[:, order], gram[np.ix_(order, order)]
    upper = np.linalg.cholesky(np.linalg.inv(gram)).T
    codes = np.empty((8, columns), np.int64)
    for k in range(columns):
        codes[:, order[k]] = code = np.clip(np.rint(work[:, k] / scale) + 8, 0, 15).astype(np.int64)
        error = (work[:, k] - scale * (code - 8)) / upper[k, k]
        work[:, k:] -= error[:, None] * upper[k, k:]
    assert np.array_equal(matrix.codes[:, :columns], codes)
    assert columns == 64 or columns > gptq.STATIC_GROUP  # steps are searched before, and columns go on their own


def test_settled_weights_are_what_feedback_alone_makes_of_them() -> None:
    rng = np.random.default_rng(9)
    weights, ahead = (rng.standard_normal((5, 12)).astype(np.float32) for _ in range(2))
    own = (np.triu(rng.standard_normal((12, 12)) * 0.3, 1) + np.eye(12)).astype(np.float32)
    expected, errors = np.zeros((5, 12)), np.zeros((5, 12))
    for k in range(12):  # as `round_block` does it, but nothing is rounded
        expected[:, k] = weights[:, k] + ahead[:, k] + errors[:, :k] @ own[:k, k]
        errors[:, k] = weights[:, k] - expected[:, k]
    assert np.allclose(gptq.settled(weights, ahead, own), expected, atol=1e-4)


@pytest.mark.parametrize("scheme", ["q3-g64", "q2m-g64", "c3-g32"])
def test_gptq_searches_steps_for_the_weights_that_errors_have_moved(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, parsed, statistics = layer(), parse_scheme(scheme), inputs()
    moved = output_error(weights, decode(Gptq(statistics).quantize(weights, parsed)), statistics)
    monkeypatch.setattr(gptq, "settled", lambda weights, ahead, own: weights)
    still = output_error(weights, decode(Gptq(statistics).quantize(weights, parsed)), statistics)
    assert moved < 0.97 * still


def test_gptq_rounds_rows_independently_of_each_other() -> None:
    weights, statistics, scheme = layer(), inputs(), parse_scheme("q3m-g64")
    method = Gptq(statistics)
    whole, part = method.quantize(weights, scheme), method.quantize(weights[16:32], scheme)
    assert np.mean(whole.codes[16:32] == part.codes) > 0.999  # matrix products of other shapes may round otherwise


def test_columns_that_go_together_are_survived() -> None:
    """A gram of low rank, as fewer tokens than columns give, has no inverse; damping makes up for that."""
    rng = np.random.default_rng(2)
    x = np.repeat(rng.standard_normal((20, 50)), 4, axis=1).astype(np.float32)
    statistics = InputStatistics(20, np.abs(x).max(axis=0), x.mean(axis=0), np.square(x).mean(axis=0), x.T @ x / 20)
    weights, scheme = layer(), parse_scheme("q3-g64")
    found = decode(Gptq(statistics).quantize(weights, scheme))
    rounded = decode(Mse(statistics).quantize(weights, scheme))
    assert output_error(weights, found, statistics) < 0.5 * output_error(weights, rounded, statistics)


@pytest.mark.parametrize("name", ["mse", "hqq", "clip", "gptq"])
@pytest.mark.parametrize("scheme", ["q2-g32", "q4-g64", "q3z-g32", "q4m-g64", "q4-g32-s6", "q3m-g32-s4"])
def test_groups_of_zeros_of_one_value_and_of_extreme_ones(name: str, scheme: str) -> None:
    parsed, weights = parse_scheme(scheme), layer(4, 16, 192)
    weights[0] = 0
    weights[1, :64] = 0
    weights[2] = 0.25
    weights[3] = -1e-7
    weights[4, 5] = 1000
    method = prepared(METHODS[name], weights, parsed, inputs(columns=192))
    found = decode(method.quantize(weights, parsed))
    assert np.isfinite(found).all()
    assert (found[0] == 0).all()
    assert np.abs(found[2] - 0.25).max() < 0.02 or name == "gptq"
    assert np.abs(found[3]).max() < 1e-4
    assert abs(found[4, 5] - 1000) < 100
    segments = encode_tensor(weights, parsed, method)
    assert segments["codes"].any()


def test_statistics_say_what_is_wrong_with_them() -> None:
    good = inputs()
    assert good.trouble == ""
    idle, odd = good.mean_square.copy(), good.mean.copy()
    idle[3], odd[:2] = 0, [np.nan, np.inf]
    assert replace(good, mean_square=idle).trouble == ""
    assert replace(good, mean_square=idle * 0).trouble == "none of 200 input columns saw an activation"
    assert replace(good, mean=odd).trouble == "2 of 200 input columns were NaN or infinite"
    assert good.gram is not None
    wild = good.gram.copy()
    wild[0, 1] = np.inf
    assert replace(good, gram=wild).trouble == "products of input columns were infinite"
    assert replace(good, gram=None).trouble == ""


def test_scaled_and_ordered_statistics_are_those_of_scaled_and_ordered_inputs() -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((500, 40)).astype(np.float32)
    scale = rng.uniform(0.5, 2, 40).astype(np.float32)
    order = rng.permutation(40).astype(np.uint32)

    def of(y: NDArray[np.float32]) -> InputStatistics:
        return InputStatistics(500, np.abs(y).max(axis=0), y.mean(axis=0), np.square(y).mean(axis=0), y.T @ y / 500)

    found, expected = of(x).ordered(order).scaled(scale), of(x[:, order] * scale)
    for name in ("absolute_maximum", "mean", "mean_square", "gram"):
        assert np.allclose(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5)


def test_methods_say_what_they_use() -> None:
    assert {name: uses(method) for name, method in METHODS.items() if uses(method)} == {
        "mse": {"vectors"},
        "clip": {"gram"},
        "gptq": {"gram"},
    }
    assert default_method(parse_scheme("q4-g32")) == "absmax"


@pytest.mark.parametrize("scheme", ["q3-g32", "q4-row", "q3-g32-s4", "q4m-g32"])
@pytest.mark.parametrize("name", ["mse", "clip", "gptq"])
@pytest.mark.parametrize("idle", [[17], range(32, 64)], ids=["one", "a group"])
def test_idle_columns_cost_the_others_nothing(name: str, scheme: str, idle: list[int] | range) -> None:
    good, weights, parsed = inputs(), layer(), parse_scheme(scheme)
    used = np.ones(COLUMNS, np.float32)
    used[list(idle)] = 0
    dead = good.scaled(used)
    assert dead.gram is not None and dead.trouble == ""

    def products_error(matrix: NDArray[np.float32], statistics: InputStatistics) -> float:
        method = prepared(METHODS[name], matrix, parsed, statistics)
        error = decode(method.quantize(matrix, parsed)) - matrix
        assert np.isfinite(error).all()
        return float(np.einsum("rc,cd,rd->", error, dead.gram, error))

    # The same matrix with zeros there is what is left if nothing of those columns mattered.
    without = products_error(weights * used, dead)
    assert products_error(weights, dead) < 1.1 * without
    plain = Mse().quantize(weights, parsed)
    assert products_error(weights, dead) < float(
        np.einsum("rc,cd,rd->", decode(plain) - weights, dead.gram, decode(plain) - weights)
    )
