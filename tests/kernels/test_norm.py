"""RMS and layer norm of rows and of their parts, within what float32 rounding allows."""

from __future__ import annotations

import numpy as np
import pytest

from ggq.tape.buffers import Buffer
from ggq.tape.ops import Norm
from ggq_kernels.run import calls
from tests.kit.kernel_support import Floats, address, count, gamma, run
from tests.kit.row_oracle import meaning

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize("width", [16, 64, 172, 2048])
def test_rms_norm_is_within_float32_rounding(width: int) -> None:
    """Each of 16 lanes adds width / 16 squares, rounded at most twice each, and 4 additions join the lanes: the mean
    of what is positive is off by gamma(width / 16 + 5), its root by half that; the factor and two products are
    rounded."""
    rng = np.random.default_rng(width)
    for scale in (1e-4, 1.0, 1e4):
        x, epsilon = (rng.standard_normal((5, width)) * scale).astype(np.float32), np.array([1e-5])
        weight = np.zeros(-(-width // 16) * 16, np.float32)
        weight[:width] = rng.standard_normal(width)
        source, out, tokens = Floats(x), Floats(np.full((5, width), 3, np.float32)), count(5)
        run(calls.norm_row(address(tokens), source.rows, out.rows, address(weight), address(epsilon)))
        wide = x.astype(np.float64)
        expected = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5) * weight[:width]
        bound = (gamma(-(-width // 16) + 5) / 2 * 1.001 + gamma(3)) * np.abs(expected)
        assert (np.abs(out.values - expected) <= bound).all()
        assert (out.whole[:5, width:] == 0).all()  # the next matrix multiplies padding columns
        np.testing.assert_array_equal(source.values, x)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("with_weight, with_bias", [(False, False), (True, False), (True, True), (False, True)])
@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("heads, part", [(1, 64), (1, 172), (1, 7), (8, 64), (3, 80), (5, 100), (4, 96), (2, 24)])
def test_norms_of_parts(heads: int, part: int, kind: str, with_weight: bool, with_bias: bool, threads: int) -> None:
    """As `test_rms_norm_is_within_float32_rounding` has it. A mean is off by gamma(part / 16 + 5) of the mean
    magnitude, by which every difference is off, and the root of the mean square by no more; biases add a rounding of
    all terms."""
    rng, n = np.random.default_rng(heads * part), 5
    x = (rng.standard_normal((n, heads * part)) * 3 + 1).astype(np.float32)
    given = [rng.standard_normal(part).astype(np.float32) if wanted else None for wanted in (with_weight, with_bias)]
    padded = [None if v is None else np.pad(v, (0, -part % 16)) for v in given]
    buffer = Buffer("x", heads * part)
    weight, bias = ("weight" if with_weight else None), ("bias" if with_bias else None)
    op = Norm(buffer, weight, buffer, 1e-5, kind, bias, heads)
    expected = meaning(op, buffer, {buffer: x}, dict(zip(("weight", "bias"), given)))
    epsilon, tokens, at = np.array([1e-5]), count(n), [0 if v is None else address(v) for v in padded]
    results = []
    for in_place in (False, True):
        source = Floats(x)
        out = source if in_place else Floats(np.full_like(x, 3))
        row = calls.norm_row(address(tokens), source.rows, out.rows, at[0], address(epsilon), kind, at[1], heads)
        run(row, threads=threads)
        assert (out.whole[:n, heads * part :] == 0).all() and np.isnan(out.whole[n:]).all()
        results.append(out.values.copy())
    np.testing.assert_array_equal(*results)
    parts, roundings = x.astype(np.float64).reshape(n, heads, part), -(-part // 16) + 5
    shift = gamma(roundings) * np.abs(parts).mean(axis=2) if kind == "layer" else np.zeros((n, heads))
    spread = np.sqrt(parts.var(axis=2) if kind == "layer" else (parts**2).mean(axis=2))
    factor = np.ones(part) if given[0] is None else np.abs(given[0])
    added = np.zeros(part) if given[1] is None else given[1]
    size = np.abs(expected.reshape(parts.shape) - added)
    bound = (gamma(roundings) + gamma(4)) * (size + np.abs(added))
    bound += (shift / spread)[:, :, None] * 1.01 * (factor + size)
    assert (np.abs(results[0].reshape(parts.shape) - expected.reshape(parts.shape)) <= bound).all()


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("heads, part", [(8, 64), (3, 20), (5, 100)])
def test_parts_with_weights_of_their_own(heads: int, part: int, kind: str) -> None:
    """The bits of each part on its own."""
    rng, n, epsilon = np.random.default_rng(part), 3, np.array([1e-5])
    x = rng.standard_normal((n, heads * part)).astype(np.float32)
    weight, bias = (np.pad(rng.standard_normal(heads * part).astype(np.float32), (0, 16)) for _ in range(2))
    source, out, tokens = Floats(x), Floats(np.full_like(x, 3)), count(n)
    at = address(weight), address(epsilon), kind, address(bias), heads
    run(calls.norm_row(address(tokens), source.rows, out.rows, *at, own=True), threads=2)
    for head in range(heads):
        columns = slice(head * part, (head + 1) * part)
        alone, single = Floats(x[:, columns]), Floats(np.full((n, part), 3, np.float32))
        pair = [np.pad(each[columns], (0, 16)) for each in (weight, bias)]
        row = calls.norm_row(address(tokens), alone.rows, single.rows, address(pair[0]), at[1], kind, address(pair[1]))
        run(row)
        np.testing.assert_array_equal(out.values[:, columns], single.values)
