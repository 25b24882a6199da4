"""The methods that fill two-level scales, minimums, ternary and binary codes and codebooks."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ggq.errors import ConvertError
from ggq.quant import METHODS, check_segments, choose_method, decode, decode_tensor, encode_tensor, error, parse_scheme
from ggq.quant.inputs import InputStatistics
from ggq.quant.methods import Learner, prepared, sample_rows
from ggq.quant.methods.kmeans import KMeans, extreme_steps, fit_codebook
from ggq.quant.methods.published import NF4_LEVELS, NF4_TABLE
from ggq.quant.reference import by_groups
from tests.kit import quant_oracle as oracle

FILLED = [
    ("q4-g16-s4", "absmax"),
    ("q3-g16-s6", "absmax"),
    ("q2-g16-s8", "absmax"),
    ("q3z-g16-s4", "zero-point"),
    ("q4m-g16", "min-max"),
    ("q2m-g16-s4", "min-max"),
    ("q5m-g16-s6", "min-max"),
    ("ternary-g16", "ternary"),
    ("ternary-g16-s6", "ternary"),
    ("binary-g16", "binary"),
    ("binary-g16-s4", "binary"),
    ("c4-g16", "nf4"),
    ("c4-g16-s6", "nf4"),
    ("c3-g16-s4", "kmeans"),
]

small = st.integers(-40, 40).map(lambda n: n / 8)
ordinary = st.floats(-1000, 1000, width=32)
tiny = st.floats(-(2.0**-14), 2.0**-14, width=32)
rows = st.one_of(st.lists(kind, min_size=1, max_size=170) for kind in (small, ordinary, tiny, small | ordinary))


@settings(max_examples=300)
@given(rows, st.sampled_from(FILLED))
def test_segments_to_the_bit(row: list[float], filled: tuple[str, str]) -> None:
    """S6.6, S7, S8, S11 and S12, against the oracle's arithmetic in the standard library."""
    name, method = filled
    weights = np.float32([row, row[::-1]])
    segments = encode_tensor(weights, parse_scheme(name), method)
    raw = {role: part.tobytes() for role, part in segments.items()}
    book = [*struct.unpack(f"{len(raw['codebook'])}b", raw["codebook"])] if method == "kmeans" else None
    assert oracle.encode(name, [weights.tolist()], book) == raw
    check_segments(parse_scheme(name), weights.shape, segments)


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.02).astype(np.float32)


def loss(weights: NDArray[np.float32], name: str, method: str | None = None) -> float:
    scheme = parse_scheme(name)
    return error(weights, decode_tensor(scheme, weights.shape, encode_tensor(weights, scheme, method))).relative_rmse


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_what_two_levels_cost_and_save(bits: int) -> None:
    """Sub-scales of 6 bits take 6.5 bits a group instead of 16, and lose next to nothing; 4 bits lose more."""
    weights = normal(128, 1024)
    for zero in ("", "z", "m"):
        plain, eight, six, four = (loss(weights, f"q{bits}{zero}-g32{s}") for s in ("", "-s8", "-s6", "-s4"))
        assert plain * 0.99 < eight < plain * 1.005
        assert six < plain * (1.01 + 0.05 * (bits == 6))
        assert six < four < plain * (1.1 + 0.4 * (bits >= 5))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_a_float_minimum_is_nearer_than_a_whole_zero_point(bits: int) -> None:
    weights = normal(128, 1024, seed=1)
    assert loss(weights, f"q{bits}m-g32") < loss(weights, f"q{bits}z-g32") * (0.99 if bits < 6 else 1)


def test_error_bound_of_min_max() -> None:
    """The bound of the docstring, with ranges that do and do not hold zero."""
    rng = np.random.default_rng(2)
    weights = (rng.standard_normal((64, 256)) + rng.integers(-4, 5, (64, 1))).astype(np.float32)
    for bits in (2, 3, 4, 5, 6, 8):
        scheme = parse_scheme(f"q{bits}m-g32")
        matrix = METHODS["min-max"].quantize(weights, scheme)
        step, minimum = (part.astype(np.float64).repeat(32, axis=1) for part in (matrix.scales, matrix.minimums))
        bound = step * (0.5 + (2**bits - 1) * 2.0**-11) * (1 + 2.0**-14) + minimum * 2.0**-11
        assert (np.abs(decode(matrix) - weights.astype(np.float64)) <= bound).all()
        assert (minimum >= 0).all() and (minimum == 0).any()


def test_ternary_and_binary_by_hand() -> None:
    weights = np.zeros((1, 40), np.float32)
    weights[0, :4], weights[0, 32:] = [8, -8, 8, -8], [1, -1, 1, -1, 0.25, -0.25, 3, -1.5]
    ternary = METHODS["ternary"].quantize(weights, parse_scheme("ternary-g32"))
    assert ternary.scales.tolist() == [[1, 1.125]]  # 32 / 32 and 9 / 8: columns of padding are not counted
    assert (ternary.codes[0, 32:40].astype(int) - 1).tolist() == [1, -1, 1, -1, 0, 0, 1, -1]
    assert (ternary.codes[0, 40:] == 1).all()
    binary = METHODS["binary"].quantize(weights, parse_scheme("binary-g32"))
    assert binary.scales.tolist() == [[1, 1.125]]
    assert decode(binary)[0, 32:].tolist() == [1.125, -1.125, 1.125, -1.125, 1.125, -1.125, 1.125, -1.125]


def test_no_step_is_better_for_binary_codes() -> None:
    weights = normal(16, 512, seed=3)
    matrix = METHODS["binary"].quantize(weights, parse_scheme("binary-g64"))
    best = error(weights, decode(matrix)).relative_rmse
    for factor in (0.95, 0.99, 1.01, 1.05):
        assert error(weights, decode(matrix) * np.float32(factor)).relative_rmse > best


@pytest.mark.parametrize("name", ["ternary-g32", "binary-g64-s4", "c4-g32", "c2-g32-s6", "q4m-g32-s6", "q3-g32-s6"])
def test_groups_of_zeros(name: str) -> None:
    scheme = parse_scheme(name)
    weights = np.zeros((2, 40), np.float32)
    weights[1] = -0.0
    for method in (key for key in {method for _, method in FILLED} if METHODS[key].supports(scheme)):
        segments = encode_tensor(weights, scheme, method)
        assert not segments["scales"].any()
        assert not decode_tensor(scheme, weights.shape, segments).any()
        check_segments(scheme, weights.shape, segments)


@pytest.mark.parametrize("name", ["q4-g32-s6", "q4m-g32", "q4m-g32-s6", "c4-g32", "ternary-g32"])
def test_weights_too_large_for_f16_are_refused(name: str) -> None:
    weights = np.full((20, 40), 1e30, np.float32)
    with pytest.raises(ConvertError, match=r"the scale of row 0, (super-)?group 0 is too large for f16"):
        encode_tensor(weights, parse_scheme(name))


# ---- codebooks


def test_nf4_is_the_published_table_in_63rds() -> None:
    assert NF4_TABLE.tolist() == oracle.NF4
    assert np.abs(NF4_TABLE / 63 - np.array(NF4_LEVELS)).max() < 0.008
    weights = np.float32([[*NF4_LEVELS, *NF4_LEVELS[::-1]]])
    matrix = METHODS["nf4"].quantize(weights, parse_scheme("c4-g32"))
    assert matrix.codes.tolist() == [[*range(16), *range(15, -1, -1)]]


def test_rounding_the_table_of_nf4_costs_nothing_that_matters() -> None:
    """Against the exact levels, in float64, with unrounded scales: 1 % of the error at most."""
    weights = normal(64, 1024, seed=4)
    groups = by_groups(weights, parse_scheme("c4-g64")).astype(np.float64)
    scale = np.abs(groups).max(axis=2, keepdims=True)
    levels = np.array(NF4_LEVELS)
    nearest = levels[np.abs(groups[..., None] / scale[..., None] - levels).argmin(axis=3)] * scale
    exact = np.sqrt(((nearest - groups) ** 2).sum() / (groups**2).sum())
    assert loss(weights, "c4-g64", "nf4") < exact * 1.01


@pytest.mark.parametrize("law", ["standard_normal", "laplace"])
def test_a_fitted_codebook_is_nearer_than_any_other_of_its_bits(law: str) -> None:
    rng = np.random.default_rng(5)
    weights = getattr(rng, law)(size=(128, 1024)).astype(np.float32)
    fitted = loss(weights, "c4-g64", "kmeans")
    assert fitted < 0.95 * loss(weights, "c4-g64", "nf4")
    assert fitted < 0.99 * loss(weights, "q4m-g64")
    assert loss(weights, "c3-g64") < 0.99 * loss(weights, "q3m-g64")
    assert loss(weights, "c2-g64") < 0.9 * loss(weights, "q2m-g64")


def test_the_levels_of_a_codebook_are_the_means_of_what_they_stand_for() -> None:
    """Lloyd's condition, up to the rounding of levels to whole steps and of weights to the histogram's bins."""
    weights, scheme = normal(256, 512, seed=6), parse_scheme("c3-g32")
    groups = by_groups(weights, scheme)
    steps = extreme_steps(groups)
    codebook = fit_codebook(groups, steps, 3, 512)
    matrix = KMeans(codebook).quantize(weights, scheme)
    inside = (groups / steps[:, :, None]).astype(np.float64).ravel()
    mass = np.broadcast_to(steps.astype(np.float64)[:, :, None] ** 2, groups.shape).ravel()
    assert matrix.codebook is not None
    for code, level in enumerate(matrix.codebook.tolist()):
        here = matrix.codes.ravel() == code
        assert abs(np.average(inside[here], weights=mass[here]) - level) < 0.75
    assert (np.diff(matrix.codebook.astype(int)) > 0).all()


def test_weights_count_for_a_codebook_with_the_square_of_their_step() -> None:
    """Rows whose errors are ten thousand times smaller do not move a level."""
    rng, scheme = np.random.default_rng(8), parse_scheme("c3-g64")
    large, small = rng.laplace(size=(16, 512)), rng.uniform(-0.01, 0.01, (48, 512))

    def fitted(weights: NDArray[np.float64]) -> list[int]:
        groups = by_groups(weights.astype(np.float32), scheme)
        return fit_codebook(groups, extreme_steps(groups), 3, 512).tolist()

    assert fitted(np.concatenate([large, small])) == fitted(large) != fitted(small)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("kind", ["zeros", "one value", "two values", "one extreme"])
def test_a_codebook_has_distinct_levels_within_limits_whatever_the_weights(bits: int, kind: str) -> None:
    weights = np.zeros((4, 64), np.float32)
    weights[:] = {"zeros": 0, "one value": 0.5, "two values": np.arange(64) % 2 * 3 - 1, "one extreme": 0}[kind]
    weights[0, 0] += 1000 * (kind == "one extreme")
    scheme = parse_scheme(f"c{bits}-g32")
    groups = by_groups(weights, scheme)
    levels = fit_codebook(groups, extreme_steps(groups), bits, 64).astype(int)
    assert len(levels) == 2**bits and (np.diff(levels) > 0).all()
    assert -64 <= levels[0] and levels[-1] <= 63
    assert loss(weights, f"c{bits}-g32") < 0.02 or kind == "zeros"


@pytest.mark.parametrize("rounding", ["mse", "gptq"])
def test_a_chain_says_where_a_codebook_comes_from(rounding: str) -> None:
    weights, scheme = np.random.default_rng(9).laplace(size=(32, 128)).astype(np.float32), parse_scheme("c4-g64")
    gram = np.eye(128, dtype=np.float32)
    inputs = InputStatistics(9, *(np.ones(128, np.float32) for _ in range(3)), gram)
    books = {}
    for name in (f"nf4+{rounding}", f"kmeans+{rounding}", rounding):
        matrix = prepared(choose_method(scheme, name), weights, scheme, inputs).quantize(weights, scheme)
        assert matrix.codebook is not None
        books[name] = matrix.codebook.tolist()
    assert books[f"nf4+{rounding}"] == NF4_TABLE.tolist() != books[rounding] == books[f"kmeans+{rounding}"]


def test_a_codebook_is_learnt_once_from_rows_of_the_whole_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sample_rows(7, 1 << 18).tolist() == [0, 1, 3, 5]
    assert sample_rows(3, 10).tolist() == [0, 1, 2]
    assert sample_rows(5, 1 << 30).tolist() == [0]
    method, scheme = choose_method(parse_scheme("c3-g32")), parse_scheme("c3-g32")
    assert isinstance(method, Learner) and not isinstance(METHODS["absmax"], Learner)
    weights = np.concatenate([normal(64, 256), np.random.default_rng(7).laplace(size=(64, 256)).astype(np.float32)])
    learnt = prepared(method, weights, scheme)
    whole, parts = learnt.quantize(weights, scheme), [learnt.quantize(weights[i : i + 16], scheme) for i in (0, 80)]
    for part, start in zip(parts, (0, 80)):
        assert np.array_equal(part.codes, whole.codes[start : start + 16])
        assert np.array_equal(part.codebook, whole.codebook)
    assert not np.array_equal(whole.codebook, method.quantize(weights[:16], scheme).codebook)
    assert prepared(METHODS["absmax"], weights, scheme) is METHODS["absmax"]
    monkeypatch.setattr("ggq.quant.tensors.BLOCK_WEIGHTS", 1)  # blocks of 16 rows
    assert (
        encode_tensor(weights, scheme)["codes"].tobytes() == encode_tensor(weights, scheme, learnt)["codes"].tobytes()
    )


def test_weights_that_are_not_finite_are_refused_with_their_place_though_a_sample_is_taken_first() -> None:
    weights = normal(20, 64)
    weights[7, 9] = np.nan
    with pytest.raises(ConvertError, match=r"1 of 1280 weights are NaN or infinite, the first at \[7, 9\]"):
        encode_tensor(weights, parse_scheme("c4-g32"))
    with pytest.raises(ConvertError, match=r"1280 of 1280 weights are NaN or infinite"):
        encode_tensor(np.full_like(weights, np.inf), parse_scheme("c4-g32"))


@pytest.mark.parametrize(
    ("scheme", "method", "text"),
    [
        ("c3-g32", "nf4", "method nf4 cannot fill scheme c3-g32\nuse kmeans"),
        ("c4-g32", "absmax", "method absmax cannot fill scheme c4-g32\nuse kmeans, nf4"),
        ("ternary-g32", "binary", "method binary cannot fill scheme ternary-g32\nuse ternary"),
        ("q4m-g32", "zero-point", "method zero-point cannot fill scheme q4m-g32\nuse min-max"),
        ("q4-g32+order", "absmax", "method absmax cannot fill scheme q4-g32+order"),
    ],
)
def test_methods_that_do_not_fit(scheme: str, method: str, text: str) -> None:
    with pytest.raises(ConvertError) as refused:
        choose_method(parse_scheme(scheme), method)
    assert str(refused.value).startswith(text)
