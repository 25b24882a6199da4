"""Fake quantization against the papers' formulas, differences of their surrogates, and the numbers of a file."""

from __future__ import annotations

import numpy as np
import pytest

from ggq.errors import UsageError
from ggq.format.scheme_names import parse_scheme
from ggq.quant import decode_tensor
from ggq.tape.reference import round_activations

torch = pytest.importorskip("torch", reason="needs PyTorch: the extra ggq[train]")

from ggq.train.quantize.fake import FollowingQuantizer, LearnedQuantizer, quantizer_of  # noqa: E402
from ggq.train.quantize.inputs import InputRounding, round_inputs  # noqa: E402
from ggq.train.quantize.rounding import Levels, RoundToGrid  # noqa: E402
from ggq.train.quantize.start import Wished, wished_by  # noqa: E402
from ggq.train.save import segments_from  # noqa: E402

SCHEMES = (
    "q2-g64 q3-g32 q4-g32 q8-g64 q2z-g64 q3z-g64 q4z-g32 q8z-row q2m-g64 q3m-g64 q4m-g32 q8m-g64 q2-g32-s6 q3-g32-s6 "
    "q4m-g32-s6 q8-g32-s8 c4-g64 c3-g32-s6 c2-g32-s6 ternary-g64 ternary-row binary-g64 binary-row"
).split()

RANDOM = np.random.default_rng(5)
WEIGHTS = RANDOM.normal(size=(37, 200)).astype(np.float32) * np.float32(0.05)
MOVED = WEIGHTS + RANDOM.normal(size=WEIGHTS.shape).astype(np.float32) * np.float32(0.02)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("name", SCHEMES)
def test_a_file_decodes_to_what_was_computed_with(name: str, learned: bool) -> None:
    """Bit for bit, after weights and grids have moved; NumPy's decoding is the judge."""
    scheme = parse_scheme(name)
    quantizer = quantizer_of(WEIGHTS, scheme, learned, "mse")
    weights = torch.from_numpy(MOVED).requires_grad_()
    if learned:
        with torch.no_grad():
            quantizer.size.mul_(torch.from_numpy(RANDOM.uniform(0.8, 1.3, tuple(quantizer.size.shape)).astype("f4")))
            if quantizer.shift is not None:
                quantizer.shift.mul_(1.07)
            quantizer.project()
    else:
        quantizer.refresh(weights)
    numbers = quantizer(weights)
    segments = segments_from(scheme, MOVED.shape, quantizer.matrix(weights))
    assert np.array_equal(decode_tensor(scheme, MOVED.shape, segments), numbers.detach().numpy())
    assert len(np.unique(numbers.detach().numpy())) > 1
    numbers.square().sum().backward()
    assert weights.grad is not None and torch.isfinite(weights.grad).all() and weights.grad.abs().sum() > 0


def paper(w: float, s: float, low: int, high: int) -> tuple[float, float]:
    """Esser et al. 2019, equation 3, and the gradient of weights: by step and by weight."""
    u = w / s
    if u <= low:
        return float(low), 0.0
    if u >= high:
        return float(high), 0.0
    return -u + float(np.rint(u)), 1.0


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gradients_of_symmetric_steps_are_the_papers(bits: int) -> None:
    scheme = parse_scheme(f"q{bits}-g32")
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    values = RANDOM.normal(size=32).astype(np.float32) * np.float32(0.7 * high * 0.02)
    step = np.float16(0.02).astype(np.float32)
    weights = torch.from_numpy(values[None].copy()).requires_grad_()
    quantizer = LearnedQuantizer(Wished(scheme, np.full((1, 1), step)), 1, 32)
    slope = torch.from_numpy(RANDOM.normal(size=(1, 32)).astype(np.float32))
    (quantizer(weights) * slope).sum().backward()
    expected = [paper(float(w), float(step), low, high) for w in values]
    by_step = sum(g * float(s) for (g, _), s in zip(expected, slope[0], strict=True))
    scale = 1 / np.sqrt(32 * max(1, high))  # 1 / sqrt(N Q_P), section 2.2
    assert quantizer.gradient_scale == pytest.approx(scale)
    assert float(quantizer.size.grad) == pytest.approx(by_step * scale, rel=1e-4)
    wanted = [g * float(s) for (_, g), s in zip(expected, slope[0], strict=True)]
    assert weights.grad is not None and weights.grad[0].tolist() == pytest.approx(wanted)


@pytest.mark.parametrize(
    "name", ["q2-g32", "q4-g32", "q2z-g32", "q4z-g32", "q2m-g32", "q4m-g32", "c4-g32", "ternary-g32"]
)
def test_gradients_are_slopes_of_the_surrogate(name: str) -> None:
    """With the roundings held as offsets, the surrogate is smooth in weights, steps and shifts: in float64 its
    differences show what the gradients must be."""
    scheme, book = parse_scheme(name), None
    if scheme.kind == "codebook":
        book = np.array([-64, -40, -25, -16, -10, -6, -3, -1, 1, 3, 6, 10, 17, 26, 41, 63], np.int8)
    table = None if book is None else torch.tensor(np.sort(book).astype(np.float64))
    levels = Levels(scheme, table)
    w = RANDOM.normal(size=(2, 1, 32))
    s = np.full((2, 1, 1), 0.4 if book is None else 0.03)
    z = {"code": np.array([1.0, 2.0])[:, None, None], "minimum": np.array([0.5, 0.9])[:, None, None]}.get(scheme.zero)
    given = [torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (w, s)]
    shift = None if z is None else torch.tensor(z, dtype=torch.float64, requires_grad=True)
    stored, extra = given[1].detach().clone(), None if shift is None else shift.detach().clone()
    slope = torch.tensor(RANDOM.normal(size=w.shape))
    (RoundToGrid.apply(*given, shift, stored, extra, levels) * slope).sum().backward()

    zeros = z if scheme.zero == "code" else None
    low, high = levels.bounds(None if zeros is None else torch.tensor(zeros))
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    base = (w + (z if scheme.zero == "minimum" else 0)) / s
    offset = np.asarray(levels.nearest(torch.tensor(base), torch.tensor(low), torch.tensor(high))) - base
    inside = (base >= low) & (base <= high)

    def surrogate(w: np.ndarray, s: np.ndarray, z: np.ndarray | None) -> float:
        minimum = z if scheme.zero == "minimum" and z is not None else 0.0
        shift = (z - zeros) if zeros is not None and z is not None else 0.0
        free = (w + minimum) / s + offset
        level = np.where(inside, free, np.where(base > high, high, low) - shift)
        return float(((s * level - minimum) * slope.numpy()).sum())

    for place, (start, found) in enumerate(
        [(w, given[0].grad), (s, given[1].grad), (z, None if shift is None else shift.grad)]
    ):
        if start is None:
            continue
        direction = RANDOM.normal(size=start.shape)
        ends = []
        for sign in (1, -1):
            arguments: list[np.ndarray | None] = [w, s, z]
            arguments[place] = start + sign * 1e-6 * direction
            ends.append(surrogate(*arguments))  # type: ignore[arg-type]
        assert found is not None
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float((found.numpy() * direction).sum()), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ["q2-g64", "q4z-g64", "q4m-g32-s6", "ternary-g64"])
def test_steps_stay_positive_whatever_an_optimizer_does(name: str) -> None:
    quantizer = quantizer_of(WEIGHTS, parse_scheme(name), True, "mse")
    assert isinstance(quantizer, LearnedQuantizer)
    signs = quantizer.sign.clone()
    weights = torch.from_numpy(WEIGHTS)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=1e3)
    for _ in range(5):
        optimizer.zero_grad()
        (quantizer(weights) * torch.from_numpy(RANDOM.normal(size=WEIGHTS.shape).astype(np.float32))).sum().backward()
        optimizer.step()
        quantizer.project()
        assert (quantizer.size > 0).all() and torch.equal(quantizer.sign, signs)
        assert np.isfinite(quantizer.wished().grid().step).all()


def test_ternary_and_binary_forms_pass_every_gradient_through() -> None:
    """Weights far outside a step's range too: nothing else would bring them back."""
    for name, method in (("ternary-g64", "ternary"), ("ternary-g64", "threshold"), ("binary-g64", "binary")):
        quantizer = quantizer_of(WEIGHTS, parse_scheme(name), False, method)
        weights = torch.from_numpy(WEIGHTS * 9).requires_grad_()
        slope = torch.from_numpy(RANDOM.normal(size=WEIGHTS.shape).astype(np.float32))
        (quantizer(weights) * slope).sum().backward()
        assert weights.grad is not None and torch.equal(weights.grad, slope)


def test_the_threshold_form_is_that_of_ternary_weight_networks() -> None:
    quantizer = quantizer_of(WEIGHTS, parse_scheme("ternary-g64"), False, "threshold")
    group = WEIGHTS[0, :64]
    beyond = np.abs(group) > 0.7 * np.abs(group).mean()
    step = np.float32(np.float16(np.abs(group[beyond]).mean()))
    found = quantizer(torch.from_numpy(WEIGHTS)).numpy()[0, :64]
    assert np.allclose(found, np.where(beyond, np.sign(group) * step, 0), rtol=1e-3) and (found == 0).any()
    with pytest.raises(UsageError, match="method threshold is for ternary weights"):
        FollowingQuantizer(parse_scheme("q2-g64"), WEIGHTS, "threshold")


def test_frozen_codes_stay_while_steps_move() -> None:
    for name in ("q2-g64", "q2z-g64", "q2m-g64", "c4-g64", "ternary-g64"):
        quantizer = quantizer_of(WEIGHTS, parse_scheme(name), True, "mse")
        weights = torch.from_numpy(WEIGHTS)
        codes = quantizer.matrix(weights).codes
        quantizer.freeze(weights)
        with torch.no_grad():
            quantizer.size.mul_(1.5)
        matrix, numbers = quantizer.matrix(weights), quantizer(weights)
        assert np.array_equal(matrix.codes, codes)
        segments = segments_from(matrix.scheme, WEIGHTS.shape, matrix)
        assert np.array_equal(decode_tensor(matrix.scheme, WEIGHTS.shape, segments), numbers.detach().numpy())
        numbers.sum().backward()
        assert quantizer.size.grad is not None and quantizer.size.grad.abs().sum() > 0


def test_schemes_of_floats_and_of_transforms_are_refused() -> None:
    for name in ("bf16", "q4-g32+scale"):
        with pytest.raises(UsageError, match="only schemes of codes without transforms can be trained"):
            LearnedQuantizer(Wished(parse_scheme(name), np.ones((1, 1), np.float32)), 1, 32)


@pytest.mark.parametrize("group", [32, 64, 96])
def test_inputs_are_rounded_as_the_interpreter_rounds_them(group: int) -> None:
    x = RANDOM.normal(size=(5, 96)).astype(np.float32)
    x[2, :32] = 0
    found = round_inputs(torch.from_numpy(x), group).numpy()
    assert np.abs(found - round_activations(x, group)).max() < 1e-6


def test_static_ranges_are_observed_and_must_be() -> None:
    scheme, x = (
        parse_scheme("q4-g32"),
        torch.from_numpy(RANDOM.normal(size=(3, 64)).astype(np.float32)).requires_grad_(),
    )
    rounding = InputRounding("static")
    with pytest.raises(UsageError, match="no range of the inputs of a has been observed"):
        rounding(x, scheme, "a")
    rounding.observing = True
    rounding(x, scheme, "a")
    rounding.observing = False
    assert rounding.ranges["a"] == float(x.detach().abs().max())
    found = rounding(2 * x, scheme, "a")
    assert float(found.detach().abs().max()) == pytest.approx(rounding.ranges["a"], rel=1e-6)
    found.sum().backward()
    assert x.grad is not None and (x.grad == 2).all()
    with pytest.raises(UsageError, match="inputs can be rounded by group, token or static, not 'row'"):
        InputRounding("row")


def test_gradients_of_a_zero_step_are_finite() -> None:
    weights = torch.zeros(16, 64, requires_grad=True)
    for learned in (True, False):
        quantizer = quantizer_of(np.zeros((16, 64), np.float32), parse_scheme("q2-g64"), learned, "mse")
        quantizer(weights).sum().backward()
        assert weights.grad is not None and torch.isfinite(weights.grad).all()


def test_starts_are_where_a_method_ended() -> None:
    for name in ("q2-g64", "q2z-g64", "q2m-g64"):
        scheme = parse_scheme(name)
        wished = wished_by(WEIGHTS, scheme, "mse")
        quantizer = LearnedQuantizer(wished, *WEIGHTS.shape)
        again = quantizer.wished()
        assert np.array_equal(again.step, wished.step)


@pytest.mark.parametrize("name", ["q2-g64", "q3m-g32", "q2z-g64", "c4-g64", "ternary-g64", "q4m-g32-s6"])
def test_a_grid_that_begins_somewhere_follows_by_least_squares(name: str) -> None:
    """Worse at no step than before, and at rest where weights are what the grid gives."""
    scheme = parse_scheme(name)
    weights = RANDOM.normal(size=(6, 200)).astype(np.float32)
    wished = wished_by(weights, scheme, None)
    fake = FollowingQuantizer(scheme, weights, start=wished)
    moved = torch.from_numpy(weights * np.float32(1.2) + np.float32(0.03))
    errors = []
    for _ in range(4):
        errors.append(float((fake(moved) - moved).square().sum()))
        fake.refresh(moved)
    assert errors[0] > errors[1] >= errors[-1] * 0.98
    rest = FollowingQuantizer(scheme, weights, start=wished)
    given = rest(torch.from_numpy(weights)).detach()
    before = rest.step.clone()
    rest.refresh(given)
    assert torch.allclose(rest.step, before, rtol=2e-3, atol=1e-6)
