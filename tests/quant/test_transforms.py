"""AWQ, SmoothQuant and order on seeded layers: each one's defining property."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant import METHODS, choose_method, decode, default_method, encode_tensor, parse_scheme
from ggq.quant.inputs import InputStatistics
from ggq.quant.methods import prepared
from ggq.quant.methods.absmax import AbsMax
from ggq.quant.methods.transforms.awq import Awq, normalized
from ggq.quant.methods.transforms.chain import Chain, composed, keeping
from ggq.quant.methods.transforms.order import Order, columns_of, row_order
from ggq.quant.methods.transforms.smoothquant import (
    CLIPS,
    STRENGTHS,
    SmoothQuant,
    round_inputs,
    rounded_error,
    static_step,
)
from ggq.quant.methods.transforms.transform import Consumer, SharedInputs, Stored, product_errors

COLUMNS = 128


def outlying(seed: int = 0, tokens: int = 600, large: float = 30) -> InputStatistics:
    """Statistics of inputs with a few large columns, with samples."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, COLUMNS)) * np.where(np.arange(COLUMNS) % 16 == 3, large, 1)
    x = x.astype(np.float32)
    square = np.square(x).mean(axis=0)
    return InputStatistics(tokens, np.abs(x).max(axis=0), x.mean(axis=0), square, x.T @ x / tokens, x[::3])


def weights(seed: int = 1, rows: int = 64) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((rows, COLUMNS)) * 0.05).astype(np.float32)


def shared(scheme: str, inputs: InputStatistics | None, *, source: NDArray | None = None, **options) -> SharedInputs:  # type: ignore[no-untyped-def, type-arg]
    parsed = parse_scheme(scheme)
    rounder = METHODS[default_method(parsed)]
    factor = options.pop("factor", np.float32(1))
    consumers = [Consumer(weights(seed) * factor, parsed, rounder) for seed in (1, 2)]
    source = np.arange(COLUMNS) if source is None else source
    return SharedInputs(consumers, inputs, source, options.pop("block", COLUMNS), **options)


@pytest.mark.parametrize("scheme", ["q3-g64", "q4z-g32", "q4m-g64", "q3-g32-s6"])
def test_awq_takes_error_off_products_with_large_inputs(scheme: str) -> None:
    place = shared(scheme, outlying())
    scale = Awq().find(place)
    assert scale is not None and product_errors(place, scale) < 0.7 * product_errors(place)
    large = np.arange(COLUMNS) % 16 == 3
    assert scale[large].min() > scale[~large].max()


def test_awq_leaves_alone_what_it_cannot_better() -> None:
    step = np.float32(1 / 64)
    exact = (np.random.default_rng(0).integers(-8, 8, (16, COLUMNS)) * step).astype(np.float32)
    exact[:, ::32] = -8 * step
    parsed = parse_scheme("q4-g32")
    place = SharedInputs([Consumer(exact, parsed, METHODS["absmax"])], outlying(), np.arange(COLUMNS), 0)
    assert product_errors(place) == 0 and Awq().find(place) is None


def test_scales_are_the_same_for_inputs_of_one_row() -> None:
    heads = np.concatenate([np.arange(32), np.arange(32), np.arange(32, 64), np.arange(32, 64)])
    for method in (Awq(), SmoothQuant()):
        scale = method.find(shared("q4-g64", outlying(), source=heads, block=32, activations="static"))
        assert scale is not None
        assert np.array_equal(scale[:32], scale[32:64]) and np.array_equal(scale[64:96], scale[96:])


def test_a_scale_is_around_one_and_bounded() -> None:
    scale = normalized(np.array([1e-30, 1e-3, 1.0, 1e3]))
    assert scale.max() * scale.min() == pytest.approx(1, rel=1e-5) and scale.max() <= 100


@pytest.mark.parametrize("form, gain", [("token", 0.5), ("static", 0.5), ("group", 0.7)])
def test_smoothquant_makes_inputs_fit_eight_bits(form: str, gain: float) -> None:
    place = shared("q8-row", outlying(), activations=form)
    scale = SmoothQuant().find(place)
    assert scale is not None and rounded_error(place, scale) < gain**2 * rounded_error(place, None)


@pytest.mark.parametrize("form, best", [("token", 0.5), ("static", 0.6)])
def test_smoothquant_finds_the_strength_of_least_error(form: str, best: float) -> None:
    place = shared("q8-row", outlying(), activations=form)
    assert place.inputs is not None
    largest, weight = place.inputs.absolute_maximum.astype(np.float64), place.magnitudes()
    trials = {strength: normalized(largest**strength / weight ** (1 - strength)) for strength in STRENGTHS}
    errors = {strength: rounded_error(place, scale) for strength, scale in trials.items()}
    found = SmoothQuant().find(place)
    assert found is not None and rounded_error(place, found) == min(errors.values())
    assert min(errors, key=errors.__getitem__) == best


def test_smoothing_leaves_the_product_unchanged_before_rounding() -> None:
    inputs, matrix = outlying(), weights()
    scale = SmoothQuant().find(shared("q8-row", inputs, activations="token"))
    assert scale is not None and inputs.samples is not None
    exact = inputs.samples @ matrix.T
    assert np.allclose((inputs.samples / scale) @ (matrix * scale).T, exact, rtol=0, atol=1e-5 * np.abs(exact).max())


def test_inputs_are_rounded_as_the_interpreters_round_them() -> None:
    from ggq.tape.reference import round_activations

    samples = outlying().samples
    assert samples is not None
    for group in (32, 64, COLUMNS):
        ours, theirs = round_inputs(samples, group), round_activations(samples, group)
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(samples).max()


@pytest.mark.parametrize("large", [1, 30])
def test_a_static_step_cuts_off_what_lowers_the_error_of_the_products(large: float) -> None:
    inputs = outlying(large=large)
    place = shared("q8-row", inputs, activations="static")

    def error(step: float) -> float:
        moved = round_inputs(inputs.samples, COLUMNS, step)
        products = zip(place.consumers, place.products, strict=True)
        return sum(float(np.square(moved @ each.weights.T - exact).sum()) for each, exact in products)

    step, whole = static_step(place), inputs.absolute_maximum.max() / 127
    assert 0 < step < whole and error(step) < 0.75 * error(whole)
    assert error(step) <= 1.001 * min(error(whole * clip) for clip in CLIPS)


@pytest.mark.parametrize("scheme", ["q3-g32", "q4m-g64", "q4-g32-s6"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_order_brings_columns_together_that_are_alike(scheme: str, calibrated: bool) -> None:
    factor = np.where(np.random.default_rng(3).random(COLUMNS) < 0.3, 10, 1).astype(np.float32)
    place = shared(scheme, outlying(large=1) if calibrated else None, factor=factor)
    order = Order().find(place)
    assert order is not None and sorted(order) == list(range(COLUMNS))
    assert product_errors(place, order=order) < 0.9 * product_errors(place)


def test_order_looks_at_the_inputs_where_they_are_known() -> None:
    """Columns of like weights and unlike inputs: no order by weights alone is as good."""
    rng, scheme = np.random.default_rng(2), parse_scheme("q3m-g32")
    size = np.exp(0.75 * rng.standard_normal(COLUMNS))
    x = (rng.standard_normal((600, COLUMNS)) * size).astype(np.float32)
    statistics = InputStatistics(600, np.abs(x).max(axis=0), x.mean(axis=0), np.square(x).mean(axis=0), x.T @ x / 600)
    consumer = Consumer(weights(9), scheme, METHODS["min-max"])
    place = SharedInputs([consumer], statistics, np.arange(COLUMNS), COLUMNS)
    blind = Order().find(SharedInputs([consumer], None, np.arange(COLUMNS), COLUMNS))
    found = Order().find(place)
    assert found is not None and blind is not None
    assert product_errors(place, order=found) < 0.96 * min(product_errors(place), product_errors(place, order=blind))


@pytest.mark.parametrize("kinds", [("scale", "order"), ("order", "scale"), ("scale", "scale"), ("order", "order")])
def test_composed_transforms_are_one_after_the_other(kinds: tuple[str, str]) -> None:
    rng, matrix = np.random.default_rng(5), weights()
    scale: NDArray[np.float32] | None = None
    order: NDArray[np.int64] | None = None
    expected = matrix
    for kind in kinds:
        found = rng.permutation(COLUMNS) if kind == "order" else rng.uniform(0.5, 2, COLUMNS).astype(np.float32)
        expected = expected[:, found] if kind == "order" else expected * found
        scale, order = composed(scale, order, kind, found)
    assert np.allclose(Stored(METHODS["absmax"], scale, order).transformed(matrix), expected, rtol=1e-6)


class Spy(AbsMax):
    """A method that only notes what it is prepared with."""

    def prepare(self, sample: NDArray[np.float32], scheme: Scheme, inputs: InputStatistics | None = None) -> Spy:
        self.sample, self.inputs = sample, inputs
        return self


def test_what_rounds_behind_a_kept_transform_is_told_of_transformed_weights_and_inputs() -> None:
    rng, inputs, spy = np.random.default_rng(5), outlying(), Spy()
    scale, order = rng.uniform(0.5, 2, COLUMNS).astype(np.float32), rng.permutation(COLUMNS)
    keeping(spy, weights(), parse_scheme("q3-g32+scale+order"), inputs, scale, order)
    assert np.allclose(spy.sample, weights()[:, order] * scale)
    assert spy.inputs is not None and spy.inputs.gram is not None and inputs.gram is not None
    assert np.allclose(spy.inputs.mean_square, inputs.mean_square[order] / scale**2, rtol=1e-5)
    expected = inputs.gram[np.ix_(order, order)] / scale / scale[:, None]
    assert np.allclose(spy.inputs.gram, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name, rounding",
    [("awq", "clip"), ("order+awq", "clip"), ("awq+order", "absmax"), ("smoothquant", "absmax"), ("awq+gptq", "gptq")],
)
def test_what_rounds_behind_transforms(name: str, rounding: str) -> None:
    chain = choose_method(parse_scheme("q4-g32"), name)
    assert isinstance(chain, Chain) and chain.rounding.name == rounding


def test_an_order_keeps_to_its_blocks_and_follows_the_rows_behind() -> None:
    key = np.random.default_rng(4).random(8)
    places = row_order(key, 4)
    assert sorted(places[:4]) == [0, 1, 2, 3] and (np.diff(key[places[:4]]) < 0).all()
    source = np.array([0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7])  # two heads share each four rows
    order = columns_of(places, source, 4)
    assert np.array_equal(source[order], places[source])  # the new column c gets what the new row behind it holds
    assert np.array_equal(order // 4, np.arange(16) // 4)


@pytest.mark.parametrize(
    "scheme, method",
    [("q3-g32+scale", "awq"), ("q3-g32+order", "order"), ("q3m-g32+scale+order", "order+awq+gptq")],
)
def test_a_matrix_on_its_own_finds_and_keeps_its_transform(scheme: str, method: str) -> None:
    matrix, inputs, parsed = weights(), outlying(), parse_scheme(scheme)
    matrix[:, 5::9] *= 6
    bare = parse_scheme(scheme.split("+")[0])
    chain = prepared(choose_method(parsed, method), matrix, parsed, inputs)
    found = decode(chain.quantize(matrix, parsed))
    plain = decode(choose_method(bare).quantize(matrix, bare))

    def error(decoded: NDArray[np.float32]) -> float:
        difference = decoded - matrix
        return float(np.einsum("rc,cd,rd->", difference, inputs.gram, difference, optimize=True))

    assert error(found) < 0.7 * error(plain)
    if method == "order":  # which can do without statistics
        assert encode_tensor(matrix, parsed, method)["input_order"].any()


def test_idle_columns_keep_a_scale_of_one_and_do_not_move_the_others() -> None:
    size = np.array([0.5, 2.0, 8.0])
    found = normalized(np.insert(size, 1, 0.0))
    assert found[1] == 1
    assert np.array_equal(np.delete(found, 1), normalized(size))
