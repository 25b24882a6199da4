"""AbsMax and zero-point: their arithmetic to the bit, and the error bounds of their docstrings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ggq.errors import ConvertError
from ggq.format.scheme_names import BITS
from ggq.quant import METHODS, choose_method, decode, default_method, error, parse_scheme
from tests.kit import quant_oracle as oracle

SLACK = 1 + 2.0**-14
SMALLEST_NORMAL = 2.0**-14

small = st.integers(-40, 40).map(lambda n: n / 8)
ordinary = st.floats(-1e6, 1e6, width=32)
tiny = st.floats(-(2.0**-14), 2.0**-14, width=32)
groups_of_32 = st.one_of(st.lists(kind, min_size=32, max_size=32) for kind in (small, ordinary, tiny, small | ordinary))


def scheme_of(bits: int, zero: bool, group: str = "g32") -> str:
    return f"q{bits}{'z' if zero else ''}-{group}"


def quantized(weights: NDArray[np.float32], bits: int, zero: bool) -> tuple[NDArray[np.float64], ...]:
    """float64 weights, decoded weights and scale of each weight."""
    scheme = parse_scheme(scheme_of(bits, zero))
    matrix = METHODS[default_method(scheme)].quantize(weights, scheme)
    scale = matrix.scales.astype(np.float64).repeat(32, axis=1)[:, : weights.shape[1]]
    return weights.astype(np.float64), decode(matrix).astype(np.float64), scale


@settings(max_examples=300)
@given(groups_of_32, st.sampled_from(BITS), st.booleans())
def test_scales_zeros_and_codes_to_the_bit(group: list[float], bits: int, zero: bool) -> None:
    """S6 to S8, against the oracle's arithmetic in the standard library."""
    weights = np.float32([group])
    scheme = parse_scheme(scheme_of(bits, zero))
    if (weights.max(initial=0) - weights.min(initial=0)) > 60000:
        weights /= 64
    matrix = METHODS[default_method(scheme)].quantize(weights, scheme)
    scale, zero_point, codes = oracle.quantize(weights[0].tolist(), bits, zero)
    assert matrix.scales.tobytes() == np.array(scale, np.float16).tobytes()
    assert matrix.codes[0].tolist() == codes
    assert matrix.zeros is None if not zero else matrix.zeros.tolist() == [[zero_point]]


@settings(max_examples=200)
@given(groups_of_32, st.sampled_from(BITS), st.booleans())
def test_no_weight_is_off_by_more_than_its_group_reaches(group: list[float], bits: int, zero: bool) -> None:
    """Also with subnormal scales and scales of 0, and zero stays exactly zero."""
    exact, decoded, _ = quantized(np.float32([[w / 64 for w in group]]), bits, zero)
    reach = max(exact.max(), 0) - min(exact.min(), 0) if zero else np.abs(exact).max()
    assert np.abs(exact - decoded).max() <= reach
    assert (decoded[exact == 0] == 0).all()


def hard_weights(seed: int) -> NDArray[np.float32]:
    """Rows of many magnitudes and shapes, none so small that scales are subnormal."""
    rng = np.random.default_rng(seed)
    rows = [
        rng.standard_normal((64, 256)),
        rng.laplace(size=(64, 256)),
        rng.standard_t(2, (64, 256)),
        np.abs(rng.standard_normal((16, 256))),
        -np.abs(rng.standard_normal((16, 256))),
        rng.integers(-8, 9, (64, 256)) / 2,
    ]
    weights = np.concatenate(rows) * 4.0 ** rng.integers(-1, 5, (288, 1))
    return weights.astype(np.float32)


@pytest.mark.parametrize("bits", BITS)
def test_error_bound_of_absmax(bits: int) -> None:
    exact, decoded, scale = quantized(hard_weights(bits), bits, zero=False)
    assert np.abs(scale).min() >= SMALLEST_NORMAL
    half, off = 2 ** (bits - 1), np.abs(exact - decoded)
    inside = exact / scale <= half - 0.5
    assert 0 < (~inside).sum() < inside.sum()
    assert (off <= np.abs(scale) / 2 * SLACK)[inside].all()
    assert (off <= np.abs(scale) * (1 + half * 2.0**-11) * SLACK).all()


@pytest.mark.parametrize("bits", BITS)
def test_error_bound_of_zero_point(bits: int) -> None:
    weights, scheme, levels = hard_weights(bits), parse_scheme(scheme_of(bits, True)), 2**bits - 1
    exact, decoded, scale = quantized(weights, bits, zero=True)
    assert scale.min() >= SMALLEST_NORMAL
    off = np.abs(exact - decoded)
    assert (off <= scale * (0.5 + levels * 2.0**-11) * SLACK).all()
    below_the_top = METHODS["zero-point"].quantize(weights, scheme).codes < levels
    assert (off <= scale / 2 * SLACK)[below_the_top].all()


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("law", ["normal", "laplace"])
def test_error_falls_with_every_bit_and_every_smaller_group(law: str, zero: bool) -> None:
    weights = getattr(np.random.default_rng(3), law)(size=(64, 1024)).astype(np.float32)
    table = []
    for group in ("g32", "g64", "g128", "row"):
        table.append([])
        for bits in BITS:
            scheme = parse_scheme(scheme_of(bits, zero, group))
            matrix = METHODS[default_method(scheme)].quantize(weights, scheme)
            table[-1].append(error(weights, decode(matrix)).relative_rmse)
    assert (np.diff(table, axis=1) < 0).all()
    assert (np.diff(table, axis=0) > 0).all()
    # A bit halves the step, about: the levels of AbsMax double, those of zero-point go from 2**b - 1 to 2**(b+1) - 1.
    ratios = np.array(table)[:, 2:] / np.array(table)[:, 1:-1]
    expected = np.array([2.0 ** (low - high) for low, high in zip(BITS[1:], BITS[2:], strict=False)])
    assert (np.abs(ratios / expected - 1) < 0.2).all()


@pytest.mark.parametrize("bits", BITS)
def test_absmax_of_what_it_decoded_is_the_same(bits: int) -> None:
    """Holds where no scale is subnormal: code 0 is always used, so the extreme weight comes back as -half * scale."""
    _, decoded, _ = quantized(hard_weights(bits), bits, zero=False)
    _, again, _ = quantized(decoded.astype(np.float32), bits, zero=False)
    assert np.array_equal(again, decoded)


@pytest.mark.parametrize("bits", BITS)
def test_zero_point_of_what_it_decoded_is_the_same_where_all_codes_are_spanned(bits: int) -> None:
    """The lowest code is always used; the highest not where both ends round inward, and there the range has shrunk."""
    weights, scheme = hard_weights(bits), parse_scheme(scheme_of(bits, True))
    matrix = METHODS["zero-point"].quantize(weights, scheme)
    again = METHODS["zero-point"].quantize(decode(matrix), scheme)
    codes = matrix.codes.reshape(len(weights), -1, 32)
    assert matrix.zeros is not None
    low = np.minimum(codes.min(axis=2), matrix.zeros)
    high = np.maximum(codes.max(axis=2), matrix.zeros)
    assert (low == 0).all()
    spanned = high == 2**bits - 1
    assert spanned.mean() > 0.8
    same = (decode(again) == decode(matrix)).reshape(codes.shape).all(axis=2)
    assert same[spanned].all()


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_groups_of_zeros(bits: int, zero: bool) -> None:
    """Scale +0, codes equal to the zero-point; -0.0 among them changes nothing."""
    scheme = parse_scheme(scheme_of(bits, zero))
    weights = np.zeros((2, 40), np.float32)
    weights[1] = -0.0
    matrix = METHODS[default_method(scheme)].quantize(weights, scheme)
    assert matrix.scales.tobytes() == bytes(matrix.scales.nbytes)
    assert (matrix.codes == (0 if zero else 2 ** (bits - 1))).all()
    assert matrix.zeros is None if not zero else not matrix.zeros.any()
    assert not decode(matrix).any()


def test_padding_columns_hold_the_zero_point() -> None:
    """S5.2, S6.5."""
    weights = np.random.default_rng(5).uniform(-1, 3, (5, 70)).astype(np.float32)
    for name in ("q3z-g64", "q5z-row"):
        scheme = parse_scheme(name)
        matrix = METHODS["zero-point"].quantize(weights, scheme)
        assert matrix.zeros is not None and matrix.zeros.any()
        group = scheme.geometry(weights.shape).group
        assert np.array_equal(matrix.codes[:, 70:], matrix.zeros.repeat(group, axis=1)[:, 70:])
    matrix = METHODS["absmax"].quantize(weights, parse_scheme("q3-g64"))
    assert (matrix.codes[:, 70:] == 4).all()


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_scales_halfway_between_two_f16_go_to_even(bits: int, zero: bool) -> None:
    """S7.2, S8.2: groups whose scale is exactly such a middle, so that any other order of operations shows."""
    even_below = np.arange(1024, 2048) / 1024
    middles = (even_below + 2.0**-11).reshape(-1, 1)
    expected = (even_below + (np.arange(1024) % 2) / 1024).reshape(-1, 1)
    levels, half = 2**bits - 1, 2 ** (bits - 1)
    if zero:
        low = -np.random.default_rng(bits).integers(0, 1024 * levels, middles.shape) / 1024
        weights = np.linspace(low, low + levels * middles, 32, axis=1)[:, :, 0].astype(np.float32)
        assert np.array_equal(weights[:, 31].astype(np.float64) - weights[:, 0], levels * middles[:, 0])
    else:
        weights = (middles * np.append(-half, -(np.arange(31) % half))).astype(np.float32)
    scheme = parse_scheme(scheme_of(bits, zero))
    matrix = METHODS[default_method(scheme)].quantize(weights, scheme)
    assert np.array_equal(matrix.scales, expected)
    for row in range(0, 1024, 37):
        scale, zero_point, found = oracle.quantize(weights[row].tolist(), bits, zero)
        assert (matrix.scales[row, 0], matrix.codes[row].tolist()) == (scale, found)
        assert matrix.zeros is None or matrix.zeros[row, 0] == zero_point


@pytest.mark.parametrize("bits", BITS)
def test_codes_come_from_the_inverse_of_the_scale(bits: int) -> None:
    """S6.3: weights halfway between two codes, where multiplying with 1 / scale and dividing by scale differ."""
    scales = (np.arange(1024, 2048) / 1024).reshape(-1, 1)
    half = 2 ** (bits - 1)
    steps = np.arange(32) % (2 * half - 1) - half + 0.5
    steps[0] = -half
    weights = (scales * steps).astype(np.float32)
    assert np.array_equal(weights, scales * steps)
    scheme = parse_scheme(scheme_of(bits, False))
    matrix = METHODS["absmax"].quantize(weights, scheme)
    assert np.array_equal(matrix.scales, scales)
    inverse = (1 / scales).astype(np.float32)
    product = (weights.astype(np.float64) * inverse).astype(np.float32)
    assert np.array_equal(matrix.codes, np.rint(product) + half)
    assert bits == 2 or not np.array_equal(matrix.codes, np.rint(steps) + half + 0 * scales)


def test_choosing_a_method() -> None:
    assert {name: method.name for name, method in METHODS.items()} == {name: name for name in METHODS}
    assert choose_method(parse_scheme("q4-g32")).name == "absmax"
    assert choose_method(parse_scheme("q4z-g32")).name == "zero-point"
    assert choose_method(parse_scheme("q4z-g32"), "zero-point").name == "zero-point"
    assert default_method(parse_scheme("bf16")) == ""


@pytest.mark.parametrize(
    ("scheme", "method", "text"),
    [
        (
            "q4-g32",
            "magic",
            "unknown method 'magic'; allowed are absmax, zero-point, min-max, kmeans, nf4, mxfp4, ternary, "
            "ternary-max, binary, mse, hqq, multiples, clip, gptq, awq, smoothquant, order",
        ),
        (
            "q4z-g32",
            "absmax",
            "method absmax cannot fill scheme q4z-g32\n"
            "use zero-point, mse, hqq, multiples, clip, gptq or another scheme",
        ),
        (
            "q4-g32",
            "zero-point",
            "method zero-point cannot fill scheme q4-g32\n"
            "use absmax, mse, hqq, multiples, clip, gptq or another scheme",
        ),
    ],
)
def test_methods_that_do_not_fit(scheme: str, method: str, text: str) -> None:
    with pytest.raises(ConvertError) as refused:
        choose_method(parse_scheme(scheme), method)
    assert str(refused.value) == text


@pytest.mark.parametrize("name", ["q4-g32", "q4z-g32", "q2-g32", "q8-row", "q3z-g64"])
def test_what_was_rounded_before_keeps_every_number(name: str) -> None:
    """`multiples` finds a step of each group again, of either sign of its weights, zeros and single numbers too."""
    scheme, rng = parse_scheme(name), np.random.default_rng(5)
    largest, group = (1 << scheme.bits) - 1, scheme.group or 128
    codes = rng.integers(0, largest + 1, (48, 128))
    zero = (
        rng.integers(0, largest + 1, (48, 128 // group))
        if scheme.zero == "code"
        else np.full((48, 128 // group), 1 << (scheme.bits - 1))
    )
    codes[0], codes[1, 5:] = zero[0].repeat(group), zero[1].repeat(group)[5:]
    scales = np.exp(rng.uniform(-9, 2, zero.shape)).astype(np.float16).astype(np.float32)
    weights = scales.repeat(group, axis=1) * (codes - zero.repeat(group, axis=1)).astype(np.float32)
    np.testing.assert_array_equal(decode(METHODS["multiples"].quantize(weights, scheme)), weights)
    others = rng.normal(0, 1, (16, 128)).astype(np.float32)  # of no step: rounded, as others are
    assert error(others, decode(METHODS["multiples"].quantize(others, scheme))).relative_rmse < 2.0**-scheme.bits * 6
