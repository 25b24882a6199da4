"""Every operation on its own: what it declares is what it does, its gradient is the slope that differences show."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.errors import UnsupportedError
from ggq.format.scheme import Scheme
from ggq.quant.stored import StoredWeight
from ggq.tape.backward import BackwardRun
from ggq.tape.caches import KeyValueSpec, StateSpec
from ggq.tape.cut import Section
from ggq.tape.folding import sites
from ggq.tape.ops import (
    OPS,
    Activate,
    Add,
    Attention,
    Blend,
    Copy,
    Embed,
    Experts,
    Gate,
    GatedDelta,
    GaussianTopK,
    Linear,
    Mamba2,
    Norm,
    Operation,
    Rescale,
    Rope,
    Route,
    Scale,
    ScaleColumns,
    Select,
    ShortConv,
    Slice,
    SoftCap,
    StoreKV,
    Xielu,
)
from ggq.tape.ops.activations import CLAMPED, GATES, WITHOUT_GATE
from ggq.tape.ops.recurrent import chunks
from ggq.tape.program import Buffer, Inputs, Program, Run
from ggq.tape.reference import Batch, Kept, NumpyExecutor
from ggq.tape.rotation import Rotation
from ggq.tape.windows import WindowRun
from tests.kit.support import ROOT

F32 = Scheme("float", 32, "f32")
WINDOWS, CONTEXT, VOCABULARY = 2, 7, 9
A, B, C, WIDE = Buffer("a", 12), Buffer("b", 12), Buffer("c", 12), Buffer("wide", 24)
KEYS, VALUES = Buffer("k", 12), Buffer("v", 12)
FOUR, OTHER = Buffer("four", 4), Buffer("other", 4)
TWO, ONE, FIVE = Buffer("two", 2), Buffer("one", 1), Buffer("five", 5)
TURN = Rotation((1.0, 0.3), "half", 1.2)
BIASES = ("bias_0", "bias_1", "bias_2", "bias_3")

SAMPLES: list[Operation] = [
    *(Activate(A, B, name) for name in WITHOUT_GATE),
    Activate(A, A, "silu"),
    Add(A, B, 0.7),
    Attention(0, WIDE, Buffer("out", 24), 4, 2, 6, 0.4),
    Attention(0, WIDE, Buffer("out", 24), 4, 2, 6, 0.9, window=3, softcap=1.5, sinks="sinks"),
    Attention(0, WIDE, Buffer("out", 24), 4, 2, 6, 0.4, causal=False),
    Attention(0, WIDE, Buffer("out", 24), 4, 2, 6, 0.4, window=3, causal=False),
    Blend(A, FOUR, WIDE, 6, 0.5, first=2),
    Blend(WIDE, None, A, 12, 0.5),
    Copy(A, WIDE, 2, 3, 1, 5, 4, 8),
    Copy(A, WIDE, 2, 3, 1, 0, 4, 8, add=True),
    Embed("table", A, 2.5),
    Embed("table", A, by="position"),
    Embed("table", A, 1.5, by="type"),
    Experts(A, TWO, ("wide", "gate"), ("up", "other_up"), ("down", "other_down"), B, "silu"),
    Experts(A, TWO, (), ("up", "other_up"), ("down", "other_down"), B, "relu2", (), BIASES[:2], ("bias", "scale")),
    Experts(A, TWO, ("wide", "gate"), ("up", "other_up"), ("down", "other_down"), B, CLAMPED, BIASES[:2], BIASES[2:]),
    *(Gate(A, B, C, name) for name in GATES),
    GatedDelta(0, WIDE, FOUR, OTHER, B, "speed", "shift", 4, 2, 3, 3),
    GaussianTopK(A, 0.3),
    Linear(A, ("square", "wide"), ("bias", None), (B, WIDE)),
    Linear(A, ("square",), ("bias",), (B,), add=True),
    Mamba2(0, WIDE, FOUR, B, "speed", "shift", "sinks", 4, 2, 3, 3),
    Mamba2(0, WIDE, FOUR, B, "speed", "shift", "sinks", 4, 1, 3, 6, 0.5, 1.5),
    Norm(A, "scale", B, 1e-2),
    Norm(A, None, B, 1e-2, "layer"),
    Norm(A, "scale", A, 1e-2, "layer", "bias"),
    Norm(WIDE, "scale", WIDE, 1e-2, heads=2),
    Norm(A, "scale", B, 1e-2, "layer", "bias", heads=3, own=True),
    Rescale(A, WIDE, 1e-5),
    Rescale(A, WIDE, 1.1),
    Rope(A, 2, TURN),
    Rope(A, 3, Rotation((1.0, 0.3), "pairs")),
    Route(FOUR, None, OTHER, 2, renormalised=True, scale=1.5),
    Route(FOUR, ONE, FIVE, 3, renormalised=False),
    Route(FOUR, ONE, FIVE, 2, True, 1.5, "sigmoid", "sinks", least=1e-2),
    Route(FOUR, None, OTHER, 1, False, 1.5, "sigmoid", groups=2, best=2, factors="speed"),
    Route(FOUR, None, OTHER, 2, True, 1.5, groups=2, factors="speed"),
    Scale(A, "one"),
    ScaleColumns(A, "scale"),
    Select(A, B),
    Slice(WIDE, A, 5),
    ShortConv(0, A, B, "taps", 3, C, KEYS, "bias", "silu"),
    ShortConv(0, A, A, "taps", 3),
    SoftCap(A, 1.5, 2.0),
    SoftCap(A, 0.0, 2.0),
    StoreKV(0, KEYS, VALUES),
    Xielu(A, B, "one", "other_one", "third"),
    Xielu(A, A, "one", "other_one", "third"),
]
"""At least one of every operation, with everything it has."""

WEIGHTS = {
    "square": (12, 12),
    "wide": (24, 12),
    "bias": (12,),
    **dict.fromkeys(("one", "other_one", "third"), (1,)),
    **dict.fromkeys(BIASES, (24,)),
    "scale": (12,),
    "table": (VOCABULARY, 12),
    "sinks": (4,),
    "taps": (3 * 12,),
    "speed": (4,),
    "shift": (4,),
    **dict.fromkeys(("gate", "up", "other_up"), (24, 12)),
    **dict.fromkeys(("down", "other_down"), (12, 24)),
}
BUFFERS = (A, B, C, WIDE, KEYS, VALUES, FOUR, OTHER, TWO, ONE)


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans go over the seven tokens in three chunks."""
    monkeypatch.setattr(chunks, "TOKENS", 3)


def label(op: Operation) -> str:
    return f"{type(op).__name__}-{SAMPLES.index(op)}"


class Bench:
    """An operation with random numbers around it, in float64."""

    def __init__(self, op: Operation) -> None:
        random = np.random.default_rng(3)
        self.op, self.asked = op, set[str]()
        self.weights = {role: random.normal(size=shape) for role, shape in WEIGHTS.items()}
        self.state = {buffer: random.normal(size=(WINDOWS, CONTEXT, buffer.width)) for buffer in BUFFERS}
        self.cached = [random.normal(size=(WINDOWS, CONTEXT, 12)) for _ in range(2)]
        self.tokens = random.integers(0, VOCABULARY, (WINDOWS, CONTEXT))

    def weight(self, role: str) -> np.ndarray:
        self.asked.add(role)
        return self.weights[role]

    def start(self) -> WindowRun:
        run = WindowRun(CONTEXT, self.weight)
        run.begin(self.tokens, dict(self.state))
        run.caches = dict.fromkeys(self.op.caches_read(), self.cached)
        return run

    def results(self) -> list[np.ndarray]:
        """What it writes: buffers in their order, then caches."""
        run = self.start()
        self.op.forward(run)
        found = [run[buffer].copy() for buffer in dict.fromkeys(self.op.writes())]
        return found + [each.copy() for cache in self.op.caches_written() for each in run.cached(cache)]

    def inputs(self) -> list[np.ndarray]:
        """What it reads: buffers in their order, then caches."""
        return [self.state[b] for b in dict.fromkeys(self.op.reads())] + (self.cached if self.op.caches_read() else [])


def test_there_is_a_sample_of_every_operation() -> None:
    assert {type(op) for op in SAMPLES} == set(OPS)


@pytest.mark.parametrize("op", SAMPLES, ids=label)
def test_results_have_the_shapes_of_their_buffers(op: Operation) -> None:
    bench = Bench(op)
    shapes = [(WINDOWS, CONTEXT, buffer.width) for buffer in dict.fromkeys(op.writes())]
    shapes += [(WINDOWS, CONTEXT, 12)] * (2 * len(op.caches_written()))
    assert [found.shape for found in bench.results()] == shapes and shapes


@pytest.mark.parametrize("op", SAMPLES, ids=label)
def test_every_declared_read_changes_the_result_and_no_other_does(op: Operation) -> None:
    bench = Bench(op)
    before = bench.results()
    assert bench.asked == set(op.weights_read())
    read = {id(array) for array in bench.inputs()} | {id(bench.weights[role]) for role in op.weights_read()}
    arrays = [*bench.state.values(), *bench.weights.values(), *bench.cached]
    assert len(read) == len(bench.inputs()) + len(op.weights_read())
    for array in arrays:
        kept = array.copy()
        array += 0.5 + np.arange(array.shape[-1])
        changed = any(not np.array_equal(a, b) for a, b in zip(bench.results(), before, strict=True))
        assert changed == (id(array) in read)
        array[...] = kept


@pytest.mark.parametrize("op", SAMPLES, ids=label)
def test_gradients_are_the_slopes_of_differences(op: Operation) -> None:
    """In float64, where a difference over 1e-6 shows nine digits of the slope."""
    bench, random = Bench(op), np.random.default_rng(5)
    slopes = [random.normal(size=found.shape) for found in bench.results()]

    def value() -> float:
        return float(sum((found * slope).sum() for found, slope in zip(bench.results(), slopes, strict=True)))

    met: dict[str, np.ndarray] = {}

    def meet(role: str, source: np.ndarray, slope: np.ndarray, rows: np.ndarray | None = None) -> None:
        assert rows is None or len(rows) == len(source)  # which of the pass they are
        total = met.setdefault(role, np.zeros(WEIGHTS[role]))
        if source.ndim == 1:
            np.add.at(total, source, slope)
        else:
            total += slope.T @ source

    back = BackwardRun(bench.start(), meet)
    written = dict.fromkeys(op.writes())
    back.slopes = dict(zip(written, slopes))
    if op.caches_written():
        back._cached_slopes = {0: slopes[len(written) :]}
    op.backward(back)
    found = [back.slopes.pop(buffer) for buffer in dict.fromkeys(op.reads())]
    found += back.take_cached(0) if op.caches_read() else []
    assert not back.slopes
    matrices = [role for role in op.weights_read() if len(WEIGHTS[role]) == 2]
    assert set(met) == set(matrices)
    pairs = [*zip(bench.inputs(), found, strict=True), *((bench.weights[role], met[role]) for role in matrices)]
    for array, gradient in pairs:
        exact, direction = array.copy(), random.normal(size=array.shape)
        array += 1e-6 * direction
        above = value()
        array[...] = exact - 1e-6 * direction
        assert (above - value()) / 2e-6 == pytest.approx((gradient * direction).sum(), rel=1e-5, abs=1e-7)
        array[...] = exact


@pytest.mark.parametrize("op", SAMPLES, ids=label)
def test_the_oracle_computes_the_same_where_nothing_is_rounded(op: Operation) -> None:
    """Each window is a sequence of its own there."""
    bench = Bench(op)
    expected = bench.results()
    spec = StateSpec(op.state_shape) if op.states() else KeyValueSpec(2, 6)  # type: ignore[attr-defined]
    program = Program((op,), Inputs(VOCABULARY, CONTEXT), {}, (spec,))
    kept = {i: Kept(program, np.float64) for i in range(WINDOWS)}  # type: ignore[arg-type]
    for i, each in kept.items():
        cache: Any = each.caches[0]
        cache._with = lambda known, more: np.concatenate([known, more.reshape(-1, 2, 6)])
        if op.caches_read():
            cache.append(*(values[i] for values in bench.cached))
    runs = [Run(i, tokens, "all") for i, tokens in enumerate(bench.tokens)]
    batch = Batch(runs, kept, lambda role: StoredWeight(F32, bench.weights[role]), "float32")
    for buffer, values in bench.state.items():
        batch[buffer] = values.reshape(-1, buffer.width)
    op.oracle(batch)
    found = [batch[buffer].reshape(WINDOWS, CONTEXT, -1) for buffer in dict.fromkeys(op.writes())]
    if op.caches_written():
        for name in ("keys", "values"):
            found.append(np.stack([getattr(each.caches[0], name).reshape(CONTEXT, -1) for each in kept.values()]))
    for a, b in zip(found, expected, strict=True):
        tolerance = 1e-6 if op.name == "rope" else 1e-11  # a pass over windows has its angles in float32
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gate(A, B, C, "nonsense"), "activation 'nonsense' is not supported; supported: silu, gelu_tanh"),
        (lambda: Activate(A, B, "swish7"), "activation 'swish7' is not supported"),
        (
            lambda: ShortConv(0, A, B, "taps", 3, activation="relu"),
            "activation 'relu' of a convolution is not supported; supported: none, silu",
        ),
        (
            lambda: Embed("table", A, by="age"),
            "an embedding by 'age' is not supported; supported: token, position, type",
        ),
        (lambda: Norm(A, "scale", B, 1e-5, kind="batch"), "norm 'batch' is not supported; supported: rms, layer"),
        (
            lambda: Rope(A, 2, Rotation((1.0,), "thirds")),
            "RoPE layout 'thirds' is not supported; supported: half, pairs",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(UnsupportedError) as refused:
        make()
    assert message in str(refused.value)


def test_an_operation_that_nobody_has_seen_is_refused_everywhere() -> None:
    class Strange(Operation):
        name = "strange"

    whole = Program((Strange(),), Inputs(VOCABULARY, CONTEXT), {"logits": A})
    executor = NumpyExecutor(whole, lambda role: (F32, np.zeros(1)))
    with pytest.raises(UnsupportedError, match="Strange cannot be computed outside the kernels"):
        executor.forward([Run(executor.open_sequence(), np.array([1]))])
    section, tokens = Section("", whole.ops, frozenset()), np.zeros((1, 2), np.int32)
    with pytest.raises(UnsupportedError, match="Strange cannot be computed"):
        WindowRun(2, lambda role: np.zeros(1)).run(section, tokens, {})
    run = WindowRun(2, lambda role: np.zeros(1))
    with pytest.raises(UnsupportedError, match="Strange has no gradient"):
        BackwardRun(run, lambda *_: None).back(section, tokens, {}, {})


def test_a_gelu_gate_is_gelu_and_a_layer_norm_subtracts_the_mean() -> None:
    """By hand, in the pass that calibration uses: gates were SiLU and norms RMS there, whatever was asked for."""
    x, run = np.float32([[[1.0, -2.0, 0.5]]]), WindowRun(1, lambda role: np.ones(3, np.float32))
    a, b, c = (Buffer(name, 3) for name in "abc")
    run.begin(np.zeros((1, 1), np.int32), {a: x, b: np.ones_like(x)})
    Gate(a, b, c, "gelu_tanh").forward(run)
    np.testing.assert_allclose(run[c][0, 0], [0.841192, -0.045402, 0.345714], atol=1e-6)
    Norm(a, "w", c, 0.0, "layer").forward(run)
    np.testing.assert_allclose(run[c][0, 0], (x[0, 0] - x.mean()) / x.std(), rtol=1e-6)


def test_a_norm_that_somebody_else_reads_takes_no_scale() -> None:
    """Whatever the field is called by which the other operation reads it."""

    class Other(Add):
        """Reads through the field `total`, which it also changes."""

    normed, hidden = Buffer("normed", 12), Buffer("hidden", 12)
    head = (Norm(hidden, "n", normed, 1e-5), Linear(normed, ("w",), (None,), (B,)))
    (site,) = sites(Program(head, Inputs(9, 9), {"logits": B}))
    assert site.norms == ("n",)
    for other in (
        Other(A, normed),
        Other(normed, A),
        Rope(normed, 2, TURN),
        SoftCap(normed, 1.0),
        StoreKV(0, A, normed),
    ):
        for ops in ((*head, other), (head[0], other, head[1])):
            (site,) = sites(Program(ops, Inputs(9, 9), {"logits": B}))
            assert not site.takes_scale
    (site,) = sites(Program(head, Inputs(9, 9), {"logits": B, "hidden": normed}))
    assert not site.takes_scale


NAMERS = ("ggq/tape/ops/", "ggq/models/build.py", "ggq/engine/lower/", "ggq/engine/emit/")
"""Where classes of operations may be named."""


def test_classes_of_operations_are_named_in_few_places() -> None:
    from ggq.engine.lower import ops as lowered

    kinds = {op.__name__ for op in OPS} | {
        name for name, value in vars(lowered).items() if isinstance(value, type) and issubclass(value, Operation)
    }
    kinds.discard("Operation")
    wrong = []
    for path in sorted((ROOT / "ggq").rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        if not place.startswith(NAMERS):
            wrong += [f"{place}: {name}" for name in imported(path) if name in kinds]
    assert wrong == []


def imported(path: Path) -> set[str]:
    """Names that a file imports from where operations are."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and ("tape.ops" in node.module or "lower.ops" in node.module)
        ):
            found |= {alias.name for alias in node.names}
    return found
