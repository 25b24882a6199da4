"""Checkpoint expressions against plain NumPy: any nesting, any block of rows, and which numbers they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ggq.errors import ConvertError
from ggq.export.restore import restored
from ggq.models import expression as base
from ggq.models import names
from ggq.models.combined import Product, Stack, Sum
from ggq.models.names import Expression, Interleaved, Matrix, Plus, Rows, Tensor, Times, Transposed, matrices

Floats = NDArray[np.float32]


class Arrays:
    """Source tensors in memory, which count the numbers that are read at once."""

    def __init__(self, arrays: dict[str, Floats]) -> None:
        self.arrays, self.largest, self.total = arrays, 0, 0

    def shape(self, name: str) -> tuple[int, ...]:
        return self.arrays[name].shape

    def rows(self, name: str, start: int, stop: int, out: Floats | None = None) -> Floats:
        array = self.arrays[name].reshape(-1, self.arrays[name].shape[-1])
        assert 0 <= start < stop <= len(array)
        found = array[start:stop].copy()
        self.largest, self.total = max(self.largest, found.size), self.total + found.size
        if out is None:
            return found
        assert out.shape == found.shape and out.flags.c_contiguous
        out[...] = found
        return out


class Build:
    """Draws an expression of a wanted shape, with the source tensors that it needs and the result by plain NumPy."""

    def __init__(self, draw: Callable[..., Any]) -> None:
        self.draw, self.arrays = draw, dict[str, Floats]()
        self.random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def tensor(self, shape: tuple[int, ...]) -> tuple[Expression, Floats]:
        name = f"t{len(self.arrays)}.weight"
        self.arrays[name] = self.random.standard_normal(shape, dtype=np.float32)
        return Tensor(name), self.arrays[name]

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def any(self, shape: tuple[int, ...], depth: int) -> tuple[Expression, Floats]:
        kinds = ["tensor", "rows", "interleaved", "plus", "sum"]
        kinds += ["transposed"] if len(shape) > 1 else []
        kinds += ["stack"] if len(shape) > 1 and shape[0] < 6 else []
        kinds += ["product"] if len(shape) == 2 else []
        kind = self.draw(st.sampled_from(kinds)) if depth else "tensor"
        found: tuple[Expression, Floats] = getattr(self, kind)(shape, *([depth - 1] if kind != "tensor" else []))
        return found

    def rows(self, shape: tuple[int, ...], depth: int) -> tuple[Expression, Floats]:
        axis = max(0, len(shape) - 2)
        before, behind = self.number(0, 4), self.number(0, 4)
        inner = (*shape[:axis], before + shape[axis] + behind, *shape[axis + 1 :])
        expression, array = self.any(inner, depth)
        picked = np.arange(before, before + shape[axis])
        return Rows(expression, before, before + shape[axis]), array.take(picked, axis)

    def interleaved(self, shape: tuple[int, ...], depth: int) -> tuple[Expression, Floats]:
        axis = max(0, len(shape) - 2)
        width = self.draw(st.sampled_from([d for d in range(1, shape[axis] + 1) if shape[axis] % d == 0]))
        before, behind = self.number(0, 3), self.number(0, 3)
        period, groups = before + width + behind, shape[axis] // width
        expression, array = self.any((*shape[:axis], groups * period, *shape[axis + 1 :]), depth)
        split = array.reshape(*shape[:axis], groups, period, *shape[axis + 1 :])
        part = split.take(np.arange(before, before + width), axis + 1)
        return Interleaved(expression, period, before, before + width), part.reshape(shape)

    def transposed(self, shape: tuple[int, ...], depth: int) -> tuple[Expression, Floats]:
        expression, array = self.any((*shape[:-2], shape[-1], shape[-2]), depth)
        return Transposed(expression), np.swapaxes(array, -1, -2)

    def stack(self, shape: tuple[int, ...], depth: int) -> tuple[Expression, Floats]:
        parts = [self.any(shape[1:], depth) for _ in range(shape[0])]
        return Stack(tuple(part for part, _ in parts)), np.stack([array for _, array in parts])

    def plus(self, shape: tuple[int, ...], depth: int) -> tuple[Expression, Floats]:
        expression, array = self.any(shape, depth)
        amount = self.draw(st.sampled_from([1.0, -0.5, 0.1]))
        return Plus(expression, amount), array + np.float32(amount)

    def sum(self, shape: tuple[int, ...], depth: int) -> tuple[Expression, Floats]:
        (left, one), (right, other) = self.any(shape, depth), self.any(shape, depth)
        return Sum(left, right), one + other

    def product(self, shape: tuple[int, ...], depth: int) -> tuple[Expression, Floats]:
        inner = self.number(1, 5)
        (left, one), (right, other) = self.any((shape[0], inner), depth), self.any((inner, shape[1]), depth)
        scale = self.draw(st.sampled_from([1.0, 0.25, 3.0]))
        exact = scale * (one.astype(np.float64) @ other.astype(np.float64))
        return Product(left, right, scale), exact.astype(np.float32)


KINDS = ("tensor", "rows", "interleaved", "transposed", "stack", "plus", "sum", "product")


@st.composite
def cases(draw: Callable[..., Any], kind: str | None = None) -> tuple[Expression, Floats, Arrays, list[int]]:
    """An expression, its numbers, its sources, and where it is cut into blocks."""
    build = Build(draw)
    most = 2 if kind == "product" else 3
    least = 2 if kind in ("transposed", "stack", "product") else 1
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=least, max_size=most)))
    depth = draw(st.integers(0, 3))
    if kind is None:
        expression, array = build.any(shape, depth)
    else:
        expression, array = getattr(build, kind)(shape, *([depth] if kind != "tensor" else []))
    rows = int(np.prod(shape[:-1]))
    cuts = sorted({0, rows, *draw(st.lists(st.integers(0, rows), max_size=3))})
    return expression, array, Arrays(build.arrays), cuts


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_every_expression_gives_what_plain_numpy_does(kind: str, piece: int, data: st.DataObject) -> None:
    expression, array, source, cuts = data.draw(cases(kind))
    before = base.PIECE_NUMBERS, names.GAP_NUMBERS
    base.PIECE_NUMBERS, names.GAP_NUMBERS = piece, piece
    try:
        assert expression.shape(source.shape) == array.shape
        expected = array.reshape(-1, array.shape[-1])
        blocks = [expression.rows(source, start, stop) for start, stop in zip(cuts, cuts[1:])]
        given_memory = np.full(expected.shape, np.nan, np.float32)
        assert expression.rows(source, 0, len(expected), given_memory) is given_memory
    finally:
        base.PIECE_NUMBERS, names.GAP_NUMBERS = before
    for found in (np.concatenate(blocks), given_memory):
        assert found.dtype == np.float32
        if "@" in str(expression):  # a product's sums may be rounded in another order
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)
        else:
            assert np.array_equal(found, expected)


@given(case=cases())
@settings(max_examples=150, deadline=None)
def test_uses_are_the_numbers_that_change_the_result(
    case: tuple[Expression, Floats, Arrays, list[int]],
) -> None:
    expression, array, source, _ = case
    rows = int(np.prod(array.shape[:-1]))
    touched = {name: np.zeros(matrices(each.shape), np.bool_) for name, each in source.arrays.items()}
    for use in expression.uses(source.shape):
        touched[use.name] |= use.rows[:, None] & use.columns
    for name, each in source.arrays.items():
        kept = each.copy()
        each[...] = np.where(touched[name].reshape(each.shape), each, np.float32(np.nan))
        assert np.isfinite(expression.rows(source, 0, rows)).all()  # what is not used is not looked at
        each[...] = np.where(touched[name].reshape(each.shape), np.float32(np.nan), kept)
        if touched[name].any():
            assert np.isnan(expression.rows(source, 0, rows)).any()
        each[...] = kept
    assert set(expression.names()) == set(source.arrays)


def test_memory_stays_at_a_block_and_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PIECE_NUMBERS", 640)
    monkeypatch.setattr(names, "GAP_NUMBERS", 32)
    fused, low = np.zeros((960, 64), np.float32), np.zeros((64, 320), np.float32)
    for expression, most in (
        (Rows(Tensor("a"), 100, 900), 4 * 64),
        (Interleaved(Tensor("a"), 3, 0, 1), 4 * 64),
        (Interleaved(Tensor("a"), 96, 32, 64), 4 * 64),
        (Transposed(Tensor("a")), 640),
        (Transposed(Stack((Tensor("a"), Tensor("a")))), 640),
        (Stack((Tensor("a"), Tensor("a"))), 4 * 64),
        (Sum(Tensor("a"), Plus(Tensor("a"))), 4 * 64),
        (Product(Tensor("a"), Tensor("b")), 640),
    ):
        source = Arrays({"a": fused, "b": low})
        expression.rows(source, 8, 12)
        assert source.largest <= most, str(expression)


def test_neighbours_are_read_at_once_and_far_rows_alone() -> None:
    """Reads of one row each would open the file as often as there are rows."""
    source = Arrays({"a": np.arange(4096 * 64, dtype=np.float32).reshape(4096, 64)})
    every_other = Interleaved(Tensor("a"), 2, 1, 2).rows(source, 0, 512)
    assert source.largest == 1023 * 64 and np.array_equal(every_other, source.arrays["a"][1:1024:2])
    source.largest = source.total = 0
    head = Interleaved(Tensor("a"), 2048, 0, 8).rows(source, 0, 16)
    assert source.total == 16 * 64 and np.array_equal(head[8:], source.arrays["a"][2048:2056])


EXPERTS = tuple(Tensor(f"layers.3.experts.{i}.w1.weight") for i in range(8))


@pytest.mark.parametrize(
    "expression, text, name",
    [
        (Tensor("a.weight"), "a.weight", "a.weight"),
        (Rows(Tensor("qkv"), 64, 96), "qkv[64:96]", None),
        (Interleaved(Tensor("qkv"), 96, 32, 64), "qkv[32:64 of every 96]", None),
        (Transposed(Tensor("c_fc")), "transposed(c_fc)", "c_fc"),
        (Rows(Transposed(Tensor("c_attn")), 0, 8), "transposed(c_attn)[0:8]", None),
        (Plus(Tensor("norm")), "norm + 1", "norm"),
        (Rows(Plus(Tensor("norm"), -0.5), 0, 4), "(norm + -0.5)[0:4]", None),
        (Stack(EXPERTS), "stack(layers.3.experts.{0..7}.w1.weight)", None),
        (Stack((Tensor("a.1"), Tensor("b.2"))), "stack(a.1, b.2)", None),
        (Stack((Tensor("a.1"), Tensor("a.3"))), "stack(a.1, a.3)", None),
        (Stack((Tensor("a.09"), Tensor("a.10"))), "stack(a.09, a.10)", None),
        (
            Sum(Tensor("w"), Product(Tensor("B"), Tensor("A"), 0.5)),
            "w + (0.5 * B @ A)",
            "w",
        ),
        (Product(Tensor("B"), Sum(Tensor("A"), Tensor("C"))), "B @ (A + C)", None),
    ],
)
def test_people_can_read_them_and_one_whole_source_gives_its_name(
    expression: Expression, text: str, name: str | None
) -> None:
    assert str(expression) == text
    assert expression.whole() == name


@pytest.mark.parametrize(
    "expression, message",
    [
        (Rows(Tensor("a"), 4, 9), "tensor a: 8 rows found, rows 4 to 8 expected"),
        (Rows(Tensor("a"), 4, 4), "tensor a: 8 rows found, rows 4 to 3 expected"),
        (Interleaved(Tensor("a"), 3, 0, 1), "tensor a: 8 rows found, a multiple of 3 expected"),
        (Interleaved(Tensor("a"), 4, 2, 5), "tensor a: rows 2 to 4 of every 4 cannot be taken"),
        (Transposed(Tensor("v")), r"tensor v: shape \[5\] found, a matrix expected"),
        (Stack((Tensor("a"), Tensor("b"))), r"tensor b: shape \[6, 8\] found, \[8, 6\] like a expected"),
        (Sum(Tensor("a"), Tensor("b")), r"tensor b: shape \[6, 8\] found, \[8, 6\] like a expected"),
        (
            Product(Tensor("b"), Tensor("v")),
            r"tensor v: shape \[5\] found, which cannot be multiplied with b of shape \[6, 8\]",
        ),
        (
            Product(Tensor("a"), Tensor("a")),
            r"tensor a: shape \[8, 6\] found, which cannot be multiplied with a of shape \[8, 6\]",
        ),
        (Rows(Tensor("one"), 0, 1), "tensor one: a single number found, rows expected"),
        (Transposed(Tensor("one")), r"tensor one: shape \[\] found, a matrix expected"),
    ],
)
def test_sources_that_do_not_fit_are_refused_by_name(expression: Expression, message: str) -> None:
    arrays = {"a": np.zeros((8, 6), np.float32), "b": np.zeros((6, 8), np.float32), "v": np.zeros(5, np.float32)}
    arrays["one"] = np.zeros((), np.float32)
    with pytest.raises(ConvertError, match=message):
        expression.shape(Arrays(arrays).shape)


def test_rows_are_multiplied_with_their_factors_and_divided_by_them_again() -> None:
    """Of a matrix and of numbers, from any row on."""
    random = np.random.default_rng(0)
    arrays = {"m": random.standard_normal((7, 3), dtype=np.float32), "v": random.standard_normal(7, dtype=np.float32)}
    factors = np.array([0.5] * 2 + [3.0] * 4 + [1.0], np.float32)
    for name, expected in {"m": arrays["m"] * factors[:, None], "v": arrays["v"] * factors}.items():
        times = Times(Tensor(name), ((2, 0.5), (6, 3.0), (7, 1.0)))
        assert str(times) == f"0.5 or 3 or 1 * {name}" and times.whole() == name
        found = times.rows(Arrays(arrays), 0, 7 if name == "m" else 1)
        np.testing.assert_array_equal(found, expected if name == "m" else expected[None])
        back = restored([(times, expected)])
        np.testing.assert_allclose(back[name], arrays[name], rtol=1e-7)
    part = Times(Tensor("m"), ((2, 0.5), (6, 3.0), (7, 1.0))).rows(Arrays(arrays), 1, 4)
    np.testing.assert_array_equal(part, (arrays["m"] * factors[:, None])[1:4])


def test_one_matrix_of_a_stack() -> None:
    """Its rows alone are read, and it is a use of nothing else."""
    stack = np.random.default_rng(1).standard_normal((3, 6, 4), dtype=np.float32)
    source = Arrays({"t": stack})
    for index in range(3):
        whole, part = Matrix(Tensor("t"), index), Rows(Matrix(Tensor("t"), index), 2, 5)
        assert whole.shape(source.shape) == (6, 4) and part.shape(source.shape) == (3, 4)
        np.testing.assert_array_equal(whole.rows(source, 1, 4), stack[index, 1:4])
        np.testing.assert_array_equal(part.rows(source, 0, 3), stack[index, 2:5])
        (use,) = part.uses(source.shape)
        assert use.matrix == index and use.rows.tolist() == [False, False, True, True, True, False]
        assert use.columns.all() and whole.whole() is None and str(whole) == f"t[{index}]"
    assert source.largest <= 12
    with pytest.raises(ConvertError, match="shape \\[3, 6, 4\\] found, 4 matrices or more expected"):
        Matrix(Tensor("t"), 3).shape(source.shape)
