"""Products of many tokens by tiles of bf16, on processors that have AMX and, by emulation, on those that have not.

These tests need kernels that are compiled for AMX. Where the processor is no such one, `test_by_emulation` runs them in
a process of its own, whose target has AMX and whose tile instructions are emulated (tests/conftest.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import ggq_kernels
from ggq.quant import parse_scheme
from ggq.quant.floats import from_float32, to_float32
from ggq.tape.ops.activations import ACTIVATIONS as MEANINGS
from ggq_kernels.code import permission
from ggq_kernels.row.calls import GATES
from ggq_kernels.row.operands import PIECE
from ggq_kernels.run import calls, limits
from ggq_kernels.vector.isa import AMX, FEATURES, ISA
from ggq_kernels.vector.tile_registers import COLUMNS
from tests.kernels.test_linear import QUANTIZED, random_matrix, weight_terms, whole_matrix
from tests.kit import tile_emulator
from tests.kit.kernel_support import UNIT, Floats, Int8, Matrix, address, count, gamma, once, product, run
from tests.kit.support import ROOT, run_python

pytestmark = pytest.mark.kernels

tiled = pytest.mark.skipif(not AMX, reason="the kernels are not compiled for AMX; test_by_emulation runs this")

FLOATS = ("f16", "bf16")
EXACT = ("q4-g32", "q3-g64", "q8-row", "q5z-g64", "ternary-g64", "binary-g32", "c4-g32", *FLOATS)
"""Schemes of which float32 holds a step times a number exactly."""
ROUNDING = 2.0**-8
"""Largest relative error of a number rounded to bf16: half of the last of its 8 significant bits."""
EDGES = (16, 17, 31, 33)
"""Numbers of tokens at the edges of one tile of tokens and of two."""


def bf16(x: np.ndarray) -> np.ndarray:
    """Numbers rounded to bf16, as float64."""
    return to_float32(from_float32(x.astype(np.float32), "bf16"), "bf16").astype(np.float64)


def by_tiles(matrices: list[Matrix], x: np.ndarray, **options: Any) -> list[np.ndarray]:
    """The product by tiles, however few the tokens."""
    return product(matrices, x, int8=matrices[0].scheme.kind != "float", bf16=True, **options)


def additions(columns: int) -> int:
    """The most roundings that a term of a sum over columns meets: with 15 others of a tile's even or odd columns, once
    with the other half, once with each tile before and after."""
    return 15 + 1 + -(-columns // COLUMNS)


@tiled
@pytest.mark.parametrize("name", [*QUANTIZED, *FLOATS])
def test_products_are_within_the_rounding_of_bf16(name: str) -> None:
    """With u = 2**-8 an activation is x (1 + d), |d| <= u, a weight w (1 + e), |e| <= u, so a product is off by at most
    (2 u + u**2) |x w|; it is exact in float32, and rounded as often as it is added; then come the bias and what was
    there. Weights that the reference rounds otherwise are off by what `weight_terms` says."""
    scheme, rng = parse_scheme(name), np.random.default_rng(list(name.encode()))
    matrices = [random_matrix(rng, scheme, rows, 172) for rows in (37, 16)]
    biases = [rng.standard_normal(37).astype(np.float32), None]
    for n in EDGES:
        x = (rng.standard_normal((n, 172)) * 10.0 ** rng.integers(-3, 4, (n, 1))).astype(np.float32)
        before = [rng.standard_normal((n, len(m.weights))).astype(np.float32) for m in matrices]
        for add_to in (None, before):
            got = by_tiles(matrices, x, biases=biases, add_to=add_to)
            for i, (m, result) in enumerate(zip(matrices, got)):
                bias = np.zeros(1) if (given := biases[i]) is None else given
                base = np.zeros(1) if add_to is None else before[i]
                expected = x.astype(np.float64) @ m.weights.T + bias + base
                terms = np.abs(x).astype(np.float64) @ np.abs(m.weights.T)
                lost = np.abs(x).astype(np.float64) @ weight_terms(m).T
                allowed = (2 * ROUNDING + ROUNDING**2) * terms + 2 * gamma(4) * lost
                added = gamma(additions(172) + 2) * (1.01 * terms + np.abs(bias) + np.abs(base))
                assert (np.abs(result - expected) <= allowed + added).all()


@tiled
@pytest.mark.parametrize("name", EXACT)
def test_both_roundings_are_to_nearest_and_nothing_else_is_rounded(name: str) -> None:
    """The result is that of rounded activations and rounded weights but for the additions: far closer than the bound
    above."""
    scheme, rng = parse_scheme(name), np.random.default_rng(list(name.encode()))
    m, x = random_matrix(rng, scheme, 40, 300), rng.standard_normal((35, 300)).astype(np.float32)
    expected, terms = bf16(x) @ bf16(m.weights).T, np.abs(bf16(x)) @ np.abs(bf16(m.weights)).T
    [got] = by_tiles([m], x)
    assert (np.abs(got - expected) <= gamma(additions(300)) * terms).all()
    assert (np.abs(got - x @ m.weights.T) > gamma(additions(300)) * terms).any()


@tiled
@pytest.mark.parametrize("name", QUANTIZED)
def test_whole_numbers_are_where_the_layout_says(name: str) -> None:
    """Activations and rounded weights are whole numbers, whose sums float32 holds exactly: the result must be equal."""
    scheme, rng = parse_scheme(name), np.random.default_rng(list(name.encode()))
    matrices = [whole_matrix(rng, scheme, rows, 172, "random") for rows in (40, 7)]
    x = rng.integers(-9, 10, (35, 172)).astype(np.float32)
    for m, got in zip(matrices, by_tiles(matrices, x)):
        np.testing.assert_array_equal(got, x @ bf16(m.weights).T)


@tiled
@pytest.mark.parametrize("n", [*EDGES, 100, 513])
def test_any_number_of_tokens_and_threads_gives_the_same_bits(n: int) -> None:
    """Two panels and a part of one, tiles that span matrices, less than four of them, more tokens than panels are kept
    for. A token's row does not depend on those beside it, nor on who computes it."""
    scheme, rng = parse_scheme("q4-g32"), np.random.default_rng(n)
    matrices = [random_matrix(rng, scheme, rows, 608) for rows in (48, 16, 130 if n < 100 else 3)]
    x = rng.standard_normal((n, 608)).astype(np.float32)
    got = by_tiles(matrices, x)
    for m, result in zip(matrices, got):
        terms = np.abs(bf16(x)) @ np.abs(bf16(m.weights)).T
        assert (np.abs(result - bf16(x) @ bf16(m.weights).T) <= gamma(additions(608)) * terms).all()
    for one, two, some in zip(got, by_tiles(matrices, x, threads=2), by_tiles(matrices, x[n - 16 :])):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one[n - 16 :], some)


# ---- rounding


def rounded(
    x: np.ndarray,
    columns: int,
    threads: int = 1,
    up: np.ndarray | None = None,
    activation: str = "silu",
    **form: Any,
) -> np.ndarray:
    """Activations as the kernel has written them, float32 (tokens, columns), NaN where it has not; of activation(x) *
    up if that is given."""
    n, other = len(x), None if up is None else Floats(up, columns)
    source, out, tokens = Floats(x, columns), Int8(n, columns, 32, bf16=True), count(n)
    wanted = calls.Packed("", 4, 16, columns, 32, 0, **form)
    row = calls.quantize_row(address(tokens), source.rows, out.rows, wanted, other.rows if other else None, activation)
    run(row, threads=threads)
    assert out.bf16 is not None
    rows = to_float32(out.bf16, "bf16").transpose(0, 2, 1, 3).reshape(-1, columns)
    assert np.isnan(rows[n:]).all()
    assert (out.codes == 0).all() == (n >= calls.BF16_TOKENS)
    return rows[:n]


@tiled
def test_few_tokens_are_rounded_to_int8() -> None:
    for n in (1, calls.BF16_TOKENS - 1):
        assert np.isnan(rounded(np.ones((n, 32), np.float32), 32)).all()


@tiled
@pytest.mark.parametrize("n", [32, 49])
def test_activations_are_rounded_to_nearest_and_halves_to_even(n: int) -> None:
    rng, width, columns = np.random.default_rng(n), PIECE + 300, PIECE + 320
    x = (rng.standard_normal((n, width)) * 10.0 ** rng.integers(-6, 7, (n, 1))).astype(np.float32)
    edges = [0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x7F7FFFFF, 0, 0x80000000, 0xFF800000]
    x[0, :8] = np.array(edges, np.uint32).view(np.float32)
    for threads in (1, 2):
        got = rounded(x, columns, threads)
        np.testing.assert_array_equal(got[:, :width], bf16(x))
        assert (got[:, width:] == 0).all()


@tiled
def test_what_is_rounded_is_what_int8_would_round() -> None:
    """Columns in another order and times a factor; a gate of any activation."""
    rng, n, width, columns = np.random.default_rng(5), 33, PIECE + 44, PIECE + 64
    x, up = rng.standard_normal((2, n, width)).astype(np.float32)
    order, factors = np.arange(columns, dtype=np.uint32), np.zeros(columns, np.float32)
    order[:width], factors[:width] = rng.permutation(width), rng.uniform(0.1, 10, width)
    got = rounded(x, columns, order=address(order), column_scale=address(factors))
    np.testing.assert_array_equal(got[:, :width], bf16(x[:, order[:width]] * factors[:width]))
    for name in set(GATES) & set(MEANINGS):
        gated = MEANINGS[name].value(np, x.astype(np.float64)) * up
        allowed = (ROUNDING + 32 * UNIT) * np.abs(gated) + 1e-7 * np.abs(up)
        assert (np.abs(rounded(x, columns, up=up, activation=name)[:, :width] - gated) <= allowed).all()


# ---- where there are no tiles


@once
def test_a_target_has_tiles_if_its_name_and_features_do() -> None:
    """A processor's name that knows no AMX turns it off, though Numba lends it the host's features."""
    code = "from ggq_kernels.vector.isa import AMX, ISA; print(ISA, AMX)"
    features = "+avx2,+fma,+f16c,+avx512f,+avx512vnni,+avx512bf16"
    for cpu, more, tiles in (
        ("sapphirerapids", ",+amx-tile,+amx-bf16", True),
        ("icelake-server", ",+amx-tile,+amx-bf16", False),
        ("sapphirerapids", ",+amx-tile", False),
        ("sapphirerapids", "", False),
    ):
        done = run_python("-c", code, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features + more)
        assert done.stdout.split() == ["avx512-vnni", str(tiles)], done.stderr
    done = run_python("-c", code, NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES=f"{features},+amx-tile,+amx-bf16")
    assert done.stdout.split() == ["avx2", "False"], done.stderr


def test_a_system_that_allows_no_tiles_keeps_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permission, "tiles_allowed", lambda: False)
    assert calls.bf16_from() == calls.EVERY
    monkeypatch.setattr(permission, "tiles_allowed", lambda: True)
    assert calls.bf16_from() == (calls.BF16_TOKENS if AMX else calls.EVERY)


def test_the_package_says_what_multiplies_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed, words in ((True, "amx-bf16"), (False, "refused")):
        monkeypatch.setattr(permission, "tiles_allowed", lambda allowed=allowed: allowed)
        assert ggq_kernels.tiles() == (words if AMX else "")
    assert ggq_kernels.tile_peak() == 0


@tiled
def test_the_peak_of_tiles_is_a_number() -> None:
    assert limits.tile_peak(1, repeat=1, pieces=1) > 0.1


@once
@pytest.mark.skipif(AMX, reason="the other tests run here as they are")
@pytest.mark.skipif(ISA != "avx512-vnni" or "avx512bf16" not in FEATURES, reason="needs AVX-512 with VNNI and BF16")
def test_by_emulation() -> None:
    """All of the tests above on this machine's processor with AMX added to it."""
    files = [__file__, str(ROOT / "tests" / "engine" / "test_tiles.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    environment = os.environ | tile_emulator.target(FEATURES)
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the other tests run here as they are" in done.stdout and "not compiled for AMX" not in done.stdout
