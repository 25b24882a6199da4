"""Adding, bounding, and the gathering of rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ggq.tape.buffers import Buffer
from ggq.tape.ops import Add, SoftCap
from ggq_kernels.attend.operands import ATTENTION, STORE
from ggq_kernels.product.operands import EMBED
from ggq_kernels.row.operands import ASSIGN, ELEMENTS, GATE, NORM, PIECE, ROPE, ROUND, ROUTE, SELECT, SHARE, TRANSFORM
from ggq_kernels.run import calls
from ggq_kernels.run.rows import MAY_BE_EMPTY, operands
from tests.kit.kernel_support import UNTOUCHED, Floats, address, count, gamma, output, run
from tests.kit.row_oracle import meaning

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize("width", [7, 172, PIECE + 40])
@pytest.mark.parametrize("scale", [1.0, -0.22, 12.5])
def test_adding(width: int, scale: float) -> None:
    """The scale is rounded; a product and a sum follow."""
    rng, buffers = np.random.default_rng(width), (Buffer("source", width), Buffer("total", width))
    source, total = (rng.standard_normal((3, width)).astype(np.float32) for _ in range(2))
    a, b, tokens = Floats(source), Floats(total), count(3)
    run(calls.add_row(address(tokens), a.rows, b.rows, scale), threads=2)
    expected = meaning(Add(*buffers, scale), buffers[1], dict(zip(buffers, (source, total))))
    assert (np.abs(b.values - expected) <= gamma(3) * (np.abs(source * scale) + np.abs(total))).all()
    assert (b.whole[:3, width:] == 0).all() and np.isnan(b.whole[3:]).all()
    np.testing.assert_array_equal(a.values, source)


@pytest.mark.parametrize("width", [7, 172, PIECE + 40])
@pytest.mark.parametrize("cap, scale", [(30.0, 1.0), (50.0, 0.0625), (0.0, 0.7), (15.0, 1.0)])
def test_soft_caps(width: int, cap: float, scale: float) -> None:
    """tanh is within 5e-7, and its argument's two roundings change it by no more than their share of it; then a product
    with the rounded cap."""
    rng, buffer, tokens = np.random.default_rng(width), Buffer("x", width), count(3)
    x = (rng.standard_normal((3, width)) * 10.0 ** rng.integers(-4, 5, (3, width))).astype(np.float32)
    made = Floats(x)
    run(calls.softcap_row(address(tokens), made.rows, cap, scale), threads=2)
    expected = meaning(SoftCap(buffer, cap, scale), buffer, {buffer: x})
    assert (np.abs(made.values - expected) <= (5e-7 * bool(cap) + gamma(4)) * np.abs(expected)).all()
    assert (made.whole[:3, width:] == 0).all() and np.isnan(made.whole[3:]).all()


def test_select_copies_the_wanted_rows() -> None:
    x, rows = np.random.default_rng(10).standard_normal((9, 100)).astype(np.float32), np.array([8, 0, 3, 3], np.int64)
    source, out, tokens = Floats(x), output(4, 100), count(4)
    run(calls.select_row(address(tokens), source.rows, out.rows, address(rows)), threads=2)
    np.testing.assert_array_equal(out.values, x[rows])
    assert (out.whole[4:] == UNTOUCHED).all()


def test_operations_follow_each_other() -> None:
    """A tape of several rows: each sees what the one before wrote, also on two threads."""
    x = np.random.default_rng(11).standard_normal((40, 256)).astype(np.float32)
    backwards = np.arange(39, -1, -1, dtype=np.int64)
    a, b, tokens = Floats(x), output(40, 256), count(40)
    forth = calls.select_row(address(tokens), a.rows, b.rows, address(backwards))
    back = calls.select_row(address(tokens), b.rows, a.rows, address(backwards))
    run(*[forth, back] * 50, forth, threads=2)
    np.testing.assert_array_equal(b.values, x[::-1])


ROWS = (ASSIGN, ELEMENTS, GATE, NORM, ROPE, ROUND, ROUTE, SELECT, SHARE, TRANSFORM)


def test_a_row_is_made_of_all_operands_of_its_record() -> None:
    """Offsets of all records are words of a row of their own, and the number of rows comes first."""
    for record in (*ROWS, STORE, ATTENTION, EMBED):
        assert sorted(record) == list(range(8, 8 + 8 * len(record), 8)) and record[-1] < MAY_BE_EMPTY
    with pytest.raises(TypeError, match="SelectRow: operands missing or unknown: column, rows"):
        operands(SELECT, **dict.fromkeys(SELECT._fields[:-1], 0), column=1)


@pytest.mark.parametrize(("start", "width"), [(0, 16), (5, 10), (16, 33), (7, 1), (100, 1100)])
def test_columns_are_copied_and_what_is_behind_them_stays(start: int, width: int) -> None:
    source = np.random.default_rng(start).standard_normal((3, start + width + 9)).astype(np.float32)
    a, b, tokens = Floats(source), Floats(np.zeros((3, width), np.float32)), count(3)
    rows = replace(a.rows, address=a.rows.address + 4 * start)
    run(calls.columns_row(address(tokens), rows, b.rows), threads=2)
    np.testing.assert_array_equal(b.values, source[:, start : start + width])
    assert (b.whole[:3, width:] == 0).all()
