"""xIELU, and what is done to parallel rows: sums in shares of a token, sizes of others, the largest numbers alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ggq.tape.buffers import Buffer
from ggq.tape.ops import Blend, GaussianTopK, Rescale
from ggq.tape.ops.xielu import form_of
from ggq_kernels.row.operands import PIECE
from ggq_kernels.run import calls
from tests.kit.kernel_support import Floats, address, count, gamma, run
from tests.kit.row_oracle import meaning

pytestmark = pytest.mark.kernels

WIDTHS = (7, 40, 172)


def random_rows(width: int, *shape: int) -> Any:
    return np.random.default_rng(width).standard_normal((*shape, width)).astype(np.float32)


def unspoiled(made: Floats, width: int) -> None:
    assert (made.whole[:3, width:] == 0).all() and np.isnan(made.whole[3:]).all()


@pytest.mark.parametrize("width", [*WIDTHS, PIECE + 40])
def test_xielu(width: int) -> None:
    """Below 0 the exponential is within 3e-7 of itself; sums and products of about five roundings follow."""
    x, (rise, fall, beta) = random_rows(width, 3) * np.float32(4), form_of(0.3, -0.8, 0.4)
    x[0, 0] = 0.0
    made, tokens = Floats(x), count(3)
    run(calls.xielu_row(address(tokens), made.rows, made.rows, rise, fall, beta), threads=2)
    wide = x.astype(np.float64)
    below = np.minimum(wide, 0)
    expected = np.where(wide > 0, rise * wide**2, fall * (np.expm1(below) - below)) + beta * wide
    size = np.where(wide > 0, rise * wide**2, fall * (1 - below)) + abs(beta * wide)
    assert (np.abs(made.values - expected) <= 4e-7 * fall + gamma(6) * size).all() and made.values[0, 0] == 0
    unspoiled(made, width)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
def test_blends(width: int, shared: bool) -> None:
    """Two parts into the last two of three; the first stays bit for bit."""
    source, total, shares = random_rows(2 * width, 3), random_rows(3 * width, 3), random_rows(4, 3)
    names = Buffer("source", 2 * width), Buffer("total", 3 * width), Buffer("shares", 4)
    a, b, c, tokens = Floats(source), Floats(total), Floats(shares), count(3)
    given = (c.rows if shared else None), b.rows, width, 0.6, 1
    run(calls.blend_row(address(tokens), a.rows, *given), threads=2)
    op = Blend(names[0], names[2] if shared else None, names[1], width, 0.6, 1)
    expected = meaning(op, names[1], dict(zip(names, (source, total, shares))))
    size = np.abs(total) + 2 * (0.6 + np.abs(shares).max()) * np.abs(source).max()
    assert (np.abs(b.values - expected) <= gamma(6) * size).all()
    assert np.array_equal(b.values[:, :width], total[:, :width])
    unspoiled(b, 3 * width)


@pytest.mark.parametrize("least", [1e-5, 4.0])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_gets_the_size_of_another(width: int, least: float) -> None:
    x, like, names = random_rows(width, 3), random_rows(width + 3, 3), (Buffer("x", width), Buffer("like", width + 3))
    made, other, tokens = Floats(x), Floats(like), count(3)
    run(calls.rescale_row(address(tokens), made.rows, other.rows, least), threads=2)
    expected = meaning(Rescale(*names, least), names[0], dict(zip(names, (x, like))))
    assert (np.abs(made.values - expected) <= gamma(2 * width + 8) * np.abs(expected)).all()
    unspoiled(made, width)


@pytest.mark.parametrize("deviations", [1.6, -0.4])
@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_not_far_above_the_mean_becomes_zero(width: int, deviations: float) -> None:
    x, name, tokens = random_rows(width, 3), Buffer("x", width), count(3)
    made = Floats(x)
    run(calls.gaussian_top_k_row(address(tokens), made.rows, deviations), threads=2)
    expected = meaning(GaussianTopK(name, deviations), name, {name: x})
    assert (np.abs(made.values - expected) <= gamma(width + 8) * (np.abs(x) + 4)).all()
    assert 0 < (made.values == 0).sum() < x.size
    unspoiled(made, width)


def test_columns_are_scaled() -> None:
    x, factors, tokens = random_rows(40, 3), np.zeros(48, np.float32), count(3)
    factors[:40], made = random_rows(40), Floats(x)
    run(calls.scale_columns_row(address(tokens), made.rows, address(factors)), threads=2)
    assert np.array_equal(made.values, x * factors[:40])
