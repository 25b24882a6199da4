"""A NaN or an infinity in what a kernel reads never gives a finite result, on any target."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from ggq.engine.kv.pool import PagePool
from ggq.engine.kv.sequence import PagedSequence
from ggq.quant import parse_scheme
from ggq_kernels.attend.operands import PAGE
from ggq_kernels.row.calls import ACTIVATIONS, GATES
from ggq_kernels.run import calls
from ggq_kernels.vector.isa import TOKENS
from tests.kernels.test_linear import random_matrix
from tests.kit.kernel_support import Floats, Int8, address, count, output, product, run

pytestmark = pytest.mark.kernels

POISONS = (np.nan, -np.nan, np.inf, -np.inf)
ROWS, WIDTH = 3, 200
PLACES = (0, 15, 16, 100, 191, 199)
"""Columns that are poisoned: first and last of vectors, of groups, of the row."""

Compute = Callable[[list[np.ndarray]], np.ndarray]
"""From the float32 buffers that a kernel reads, (ROWS, WIDTH) each or (1, WIDTH), to its results by row."""


def normed(kind: str, heads: int, weight: bool) -> Compute:
    def compute(buffers: list[np.ndarray]) -> np.ndarray:
        x, out, epsilon, tokens = Floats(buffers[0]), output(ROWS, WIDTH), np.array([1e-5]), count(ROWS)
        padded = np.pad(buffers[1][0, : WIDTH // heads], (0, 128)) if weight else np.zeros(0)
        bias = np.pad(buffers[2][0, : WIDTH // heads], (0, 128)) if len(buffers) > 2 else None
        at = address(padded) if weight else 0, address(epsilon), kind, 0 if bias is None else address(bias), heads
        run(calls.norm_row(address(tokens), x.rows, out.rows, *at))
        return out.values

    return compute


def gated(activation: str) -> Compute:
    def compute(buffers: list[np.ndarray]) -> np.ndarray:
        gate, up, out, tokens = Floats(buffers[0]), Floats(buffers[1]), output(ROWS, WIDTH), count(ROWS)
        run(calls.gate_row(address(tokens), gate.rows, up.rows, out.rows, activation))
        return out.values

    return compute


def activated(activation: str) -> Compute:
    def compute(buffers: list[np.ndarray]) -> np.ndarray:
        x, out, tokens = Floats(buffers[0]), output(ROWS, WIDTH), count(ROWS)
        run(calls.activate_row(address(tokens), x.rows, out.rows, activation))
        return out.values

    return compute


def rounded(form: str, activation: str = "") -> Compute:
    """Scales and codes multiplied again."""

    def compute(buffers: list[np.ndarray]) -> np.ndarray:
        x, up = Floats(buffers[0], 256), Floats(buffers[1], 256) if activation else None
        out, tokens = Int8(ROWS, 256, 32), count(ROWS)
        wanted = calls.Packed("", 4, 16, 256, 32, 0, activations=form, activation_step=0.02)
        run(
            calls.quantize_row(address(tokens), x.rows, out.rows, wanted, up.rows if up else None, activation or "silu")
        )
        codes, scales, _ = out.unpacked(TOKENS)
        with np.errstate(invalid="ignore"):
            return codes * np.repeat(scales, 32, axis=1)

    return compute


def turned(layout: str) -> Compute:
    def compute(buffers: list[np.ndarray]) -> np.ndarray:
        x, tokens, positions = Floats(buffers[0]), count(ROWS), np.zeros(ROWS, np.int64)
        table = np.full((1, 50), 0.5, np.float32)
        pointer = np.array([address(table)])
        run(calls.rope_row(address(tokens), x.rows, 4, layout, address(pointer), address(positions)))
        return x.values

    return compute


def elementwise(kind: str) -> Compute:
    def compute(buffers: list[np.ndarray]) -> np.ndarray:
        x, tokens = Floats(buffers[0]), count(ROWS)
        if kind == "add":
            source = Floats(buffers[1])
            run(calls.add_row(address(tokens), source.rows, x.rows, 0.0))
        else:
            run(calls.softcap_row(address(tokens), x.rows, 5.0 if kind == "cap" else 0.0, 0.5))
        return x.values

    return compute


def streamed(kind: str) -> Compute:
    """What models of several parallel rows have besides, in place."""

    def compute(buffers: list[np.ndarray]) -> np.ndarray:
        x, tokens = Floats(buffers[0]), count(ROWS)
        if kind == "xielu":
            run(calls.xielu_row(address(tokens), x.rows, x.rows, 0.7, 1.2, 0.5))
        elif kind == "gaussian top k":
            run(calls.gaussian_top_k_row(address(tokens), x.rows, -9.0))
        elif kind == "scale columns":
            run(calls.scale_columns_row(address(tokens), x.rows, address(padded := np.pad(buffers[1][0], (0, 64)))))
            assert padded.dtype == np.float32
        else:
            like = Floats(buffers[1])  # in memory while the row is carried out
            run(calls.rescale_row(address(tokens), x.rows, like.rows, 1e-5))
        return x.values

    return compute


STREAMED = {"xielu": 1, "gaussian top k": 1, "scale columns": 2, "rescale": 2}


def multiplied(int8: bool) -> Compute:
    def compute(buffers: list[np.ndarray]) -> np.ndarray:
        return product([MATRIX], buffers[0], int8=int8)[0]

    return compute


MATRIX = random_matrix(np.random.default_rng(0), parse_scheme("q4-g32"), 16, WIDTH)

CASES: dict[str, tuple[int, Compute]] = {
    **{f"norm {kind}": (2, normed(kind, 1, True)) for kind in ("rms", "layer")},
    **{f"norm {kind} with a bias": (3, normed(kind, 1, True)) for kind in ("rms", "layer")},
    **{f"norm {kind} of parts": (1, normed(kind, 5, False)) for kind in ("rms", "layer")},
    **{f"gate {name}": (2, gated(name)) for name in GATES},
    **{f"activation {name}": (1, activated(name)) for name in ACTIVATIONS},
    **{f"int8 {form}": (1, rounded(form)) for form in ("group", "token", "static")},
    **{f"int8 {name}": (2, rounded("group", name)) for name in GATES},
    **{f"rope {layout}": (1, turned(layout)) for layout in ("half", "pairs")},
    **{name: (2 if name == "add" else 1, elementwise(name)) for name in ("add", "cap", "scale")},
    **{name: (buffers, streamed(name)) for name, buffers in STREAMED.items()},
    **{f"product int8={int8}": (1, multiplied(int8)) for int8 in (True, False)},
}


@pytest.mark.parametrize("case", CASES)
def test_rows_stay_poisoned(case: str) -> None:
    """One number of one buffer at a time; other rows stay finite unless it is a weight."""
    buffers, compute = CASES[case]
    rng = np.random.default_rng(len(case))
    clean = [rng.standard_normal((ROWS, WIDTH)).astype(np.float32) for _ in range(buffers)]
    assert np.isfinite(compute(clean)).all()
    for which in range(buffers):
        for place in PLACES:
            for poison in POISONS:
                given = [x.copy() for x in clean]
                weight = case.startswith(("norm", "scale columns")) and which > 0
                row = 0 if weight else 1
                given[which][row, place] = poison
                finite = np.isfinite(compute(given)).all(axis=1)
                assert not finite[row], (which, place, poison)
                assert weight or (finite[0] and finite[2])


def test_numbers_whose_squares_overflow_are_no_row_of_zeros() -> None:
    x = np.ones((ROWS, WIDTH), np.float32)
    x[1] = 1e20
    for kind, heads in (("rms", 1), ("rms", 5), ("layer", 1)):
        x[1, 0] = -1e20  # so that the mean is not all
        got = normed(kind, heads, True)([x, np.ones_like(x)])
        assert np.isnan(got[1]).any() and np.isfinite(got[0]).all()


HEADS, KV_HEADS, DIM, TOKENS_BEFORE = 4, 2, 24, PAGE + 40


@pytest.mark.parametrize("kind", ["f16", "f32"])
@pytest.mark.parametrize("window, softcap, with_sinks", [(0, 0.0, False), (100, 0.0, False), (0, 5.0, True)])
def test_attention_stays_poisoned(kind: str, window: int, softcap: float, with_sinks: bool) -> None:
    """In a query, in keys and values of either page, first and last, and in a sink; the other heads stay finite.

    A key whose products are all -infinity would have the weight of one that is far from all queries.
    """
    rng, n = np.random.default_rng(20), TOKENS_BEFORE
    clean = {
        "query": np.abs(rng.standard_normal((1, HEADS * DIM))),
        "key": rng.standard_normal((n, KV_HEADS * DIM)),
        "value": rng.standard_normal((n, KV_HEADS * DIM)),
        "sinks": rng.standard_normal((1, HEADS)) if with_sinks else np.zeros((1, 0)),
    }
    form = kind, window, softcap
    assert np.isfinite(attended(clean, *form)).all()
    for what, array in clean.items():
        rows = [0] if len(array) == 1 else [n - 1, n - 17, n - 90]
        for row in rows:
            for column in {0, 15, DIM - 1} & set(range(array.shape[1])):
                for poison in POISONS:
                    given = {name: each.copy() for name, each in clean.items()}
                    given[what][row, column] = poison
                    finite = np.isfinite(attended(given, *form)).reshape(HEADS, DIM).all(axis=1)
                    mine = [column] if what == "sinks" else [0] if what == "query" else [0, 1]
                    assert not finite[mine].any(), (what, row, column, poison)
                    assert finite[[head for head in range(HEADS) if head not in mine]].all()


def test_keys_and_values_beyond_float16_are_not_hidden() -> None:
    """The cache makes infinities of them."""
    rng = np.random.default_rng(21)
    shapes = {"query": (1, HEADS * DIM), "key": (40, KV_HEADS * DIM), "value": (40, KV_HEADS * DIM), "sinks": (1, 0)}
    for what in ("key", "value"):
        for huge in (70000, -70000):
            given = {name: np.abs(rng.standard_normal(shape)) for name, shape in shapes.items()}
            given[what][7, 3] = huge
            assert not np.isfinite(attended(given, "f16", 0, 0.0)).all()
            assert np.isfinite(attended(given, "f32", 0, 0.0)).all()


def attended(given: dict[str, np.ndarray], kind: str, window: int, softcap: float) -> np.ndarray:
    """What the last token of a context gets."""
    n = len(given["key"])
    pool = PagePool([calls.layer_bytes(kind, KV_HEADS, DIM)], 1 << 24)
    sequence, sizes = PagedSequence(pool, [0], PAGE), calls.Heads(HEADS, KV_HEADS, DIM, 0)
    sequence.reserve(n)
    query, key, value = (Floats(given[name]) for name in ("query", "key", "value"))
    out, tokens, one, scale = output(1, HEADS * DIM), count(n), count(1), np.array([math.log2(math.e) / 5])
    positions, tables = np.arange(n), np.full(n, sequence.addresses[0])
    runs, sinks = np.array([0, 1, n - 1, sequence.addresses[0], 0]), given["sinks"].astype(np.float32)
    store = address(tokens), key.rows, value.rows, sizes, address(positions), address(tables)
    attend = address(one), address(runs), query.rows, out.rows, sizes, address(scale)
    run(
        calls.store_kv_row(kind, *store),
        calls.attention_row(kind, *attend, window, softcap, address(sinks) if sinks.size else 0),
    )
    sequence.close()
    return out.values[0].copy()
