"""The compiled search finds what the NumPy reference finds, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ggq.convert.mix.candidates import column_errors
from ggq.convert.mix.mix import LADDER
from ggq.quant import parse_scheme, scheme_name
from ggq.quant.grid import Grid
from ggq.quant.matrix import geometry
from ggq.quant.methods.kmeans import extreme_steps, fit_codebook, learnt_codebook
from ggq.quant.methods.published import NF4_TABLE
from ggq.quant.reference import by_groups
from ggq.quant.search import quick
from ggq.quant.search.steps import best_grid, diagonal_metric, quick_steps

PLAIN = ["q2-g64", "q3-g32", "q4-g16", "q4-row", "q5-g128", "q8-g32", "ternary-g64", "binary-g32", "c2-g32", "c4-g64"]
TWO_LEVEL = ["q2-g32-s4", "q4-g16-s4", "q6-g64-s8", "ternary-g32-s6", "binary-g64-s4", "c3-g32-s6", "c4-g64-s6"]

SHIFTED = ["q2z-g32", "q4z-g64", "q4z-row", "q8z-g32", "q2m-g32", "q4m-g64", "q3m-row", "q4m-g32-s6", "q2m-g16-s4"]


def layer(seed: int = 0, rows: int = 37, columns: int = 600) -> NDArray[np.float32]:
    """Weights with outliers, and rows and groups of zeros, of one value, of tiny and of very unequal ones. The columns
    are no multiple of a group, and fill more than two super-groups."""
    rng = np.random.default_rng(seed)
    weights = (rng.standard_normal((rows, columns)) * 0.05).astype(np.float32)
    weights[rng.random(weights.shape) < 0.005] *= 5
    weights[1], weights[2, :130], weights[3], weights[4, 64:128] = 0, 0, 0.5, -0.25
    weights[5] *= np.float32(1e-7)  # steps are subnormal halves
    weights[6], weights[7, ::3] = 1e-42, 0
    weights[8] *= np.exp2(rng.integers(-20, 5, columns)).astype(np.float32)
    weights[9, :32] = 1e-30
    weights[10] = np.float32(0.125) * rng.integers(-8, 9, columns)  # many ties
    weights[11], weights[12] = weights[11] + 1, weights[12] - 1  # padding is out of the range
    return weights


def same(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Whether two arrays hold the same bits, but for the signs of zeros."""
    return np.array_equal((a + 0.0).view(np.uint32), (b + 0.0).view(np.uint32))


@pytest.mark.parametrize("importance", [False, True])
@pytest.mark.parametrize("name", [*PLAIN, *TWO_LEVEL, *SHIFTED])
def test_steps_are_those_of_the_reference(name: str, importance: bool) -> None:
    weights, scheme = layer(), parse_scheme(name)
    columns = np.random.default_rng(1).random(weights.shape[1], np.float32) if importance else None
    metric = diagonal_metric(columns, geometry(scheme, weights.shape))
    codebook = learnt_codebook(None, weights, scheme)
    assert quick.able(scheme, codebook) or name in SHIFTED
    expected = best_grid(weights, scheme, metric, codebook)
    assert len(np.unique(expected.step)) > 20
    found = best_grid(weights, scheme, metric, codebook, compiled=True)
    assert same(found.step, expected.step)
    assert np.array_equal(found.scales.view(np.uint16), expected.scales.view(np.uint16))
    for role in ("zeros", "minimums", "subscales", "subminimums"):
        assert np.array_equal(getattr(found, role), getattr(expected, role)), role


@pytest.mark.parametrize("name", ["q4-g32", "c4-g32-s6", "q4z-g32", "q4m-g32-s6"])
def test_weights_may_lie_column_by_column(name: str) -> None:
    """As they do when their columns have been put in another order."""
    weights, scheme = layer(5, columns=608), parse_scheme(name)
    metric = diagonal_metric(np.random.default_rng(1).random(608), geometry(scheme, weights.shape))
    codebook = learnt_codebook(None, weights, scheme)
    grids = [
        best_grid(numbers, scheme, metric, codebook, compiled=True) for numbers in (weights, np.asfortranarray(weights))
    ]
    assert same(grids[0].step, grids[1].step)
    for role in ("zeros", "minimums", "subscales", "subminimums"):
        assert np.array_equal(getattr(grids[0], role), getattr(grids[1], role)), role
    if codebook is not None:
        assert np.array_equal(learnt_codebook(None, np.asfortranarray(weights), scheme), codebook)
    assert np.array_equal(
        column_errors(np.asfortranarray(weights), scheme, compiled=True), column_errors(weights, scheme, compiled=True)
    )


def test_a_table_that_is_not_ascending_is_left_to_the_reference() -> None:
    scheme = parse_scheme("c4-g64")
    assert quick.able(scheme, NF4_TABLE)
    assert not quick.able(scheme, NF4_TABLE[::-1].copy())
    assert not quick.able(parse_scheme("q4z-g64"), None) and not quick.able(parse_scheme("q4m-g64"), None)
    weights = layer()
    grids = [best_grid(weights, scheme, None, NF4_TABLE[::-1].copy(), compiled=each) for each in (False, True)]
    assert same(grids[0].step, grids[1].step)


@pytest.mark.parametrize("name", [*map(scheme_name, LADDER), "ternary-g64", "q4-row", "bf16", "q4z-g32"])
def test_errors_of_columns_are_those_of_the_reference(name: str) -> None:
    weights, scheme = layer(3), parse_scheme(name)
    expected = column_errors(weights, scheme)
    assert (expected > 0).any()
    assert np.array_equal(column_errors(weights, scheme, compiled=True), expected)


def test_squares_are_added_to_what_is_there() -> None:
    weights, scheme = layer(4), parse_scheme("q3-g32-s6")
    x, metric = by_groups(weights, scheme), diagonal_metric(None, geometry(scheme, weights.shape))
    squares = np.zeros((2, *x.shape[1:]))
    steps = quick_steps(x, metric, scheme, None, squares[0])
    quick_steps(x[:20], metric, scheme, None, squares[1])
    quick_steps(x[20:], metric, scheme, None, squares[1])
    assert np.array_equal(squares[0], squares[1])
    assert same(steps, quick_steps(x, metric, scheme, None))
    grid: Grid = best_grid(weights, scheme)
    decoded = grid.values(grid.nearest(x.reshape(len(x), -1)))
    expected = np.square(decoded - x.reshape(len(x), -1), dtype=np.float64).sum(axis=0)
    assert squares[0].reshape(-1) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
@pytest.mark.parametrize("scheme", ["c4-g32", "c4-g64", "c4-row"])
def test_codebooks_are_those_of_the_reference(bits: int, scheme: str) -> None:
    for seed in range(3):
        weights = layer(seed)
        groups, columns = by_groups(weights, parse_scheme(scheme)), weights.shape[1]
        steps = extreme_steps(groups)
        expected = fit_codebook(groups, steps, bits, columns)
        assert (np.diff(expected.astype(int)) > 0).all()
        assert np.array_equal(fit_codebook(groups, steps, bits, columns, compiled=True), expected)
