"""Changes of rows and columns: applied, undone, kept in a file and refused."""

from __future__ import annotations

from base64 import b64encode

import numpy as np
import pytest

from ggq.errors import FormatError
from ggq.quant.change import Change, read_change

ROWS, COLUMNS = 6, 4


def text(numbers: np.ndarray) -> str:
    return b64encode(numbers.tobytes()).decode()


def change() -> Change:
    """Rows scaled and then put in another order, columns the other way round."""
    rng = np.random.default_rng(1)
    rows = Change().with_rows(scale=rng.uniform(0.5, 2, ROWS).astype(np.float32)).with_rows(order=rng.permutation(ROWS))
    columns = rows.with_columns(order=rng.permutation(COLUMNS))
    return columns.with_columns(scale=rng.uniform(0.5, 2, COLUMNS).astype(np.float32))


def test_a_change_is_what_its_docstring_says() -> None:
    old, done = np.arange(ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS), change()
    assert done.row_order is not None and done.column_order is not None
    assert done.row_scale is not None and done.column_scale is not None
    new = done.apply(old[done.row_order], np.arange(ROWS))
    for i in range(ROWS):
        for j in range(COLUMNS):
            expected = old[done.row_order[i], done.column_order[j]] * done.row_scale[i] * done.column_scale[j]
            assert new[i, j] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("step", [1, 4, 6])
def test_undoing_gives_the_old_numbers_back_whatever_the_blocks(step: int) -> None:
    old, done = np.random.default_rng(2).standard_normal((ROWS, COLUMNS)).astype(np.float32), change()
    assert done.row_order is not None
    new = done.apply(old[done.row_order], np.arange(ROWS))
    blocks = (new[start : start + step] for start in range(0, ROWS, step))
    assert np.allclose(np.concatenate(list(done.undo(blocks, ROWS))), old, rtol=1e-6)


def test_a_change_is_read_from_what_it_is_kept_as() -> None:
    done = change()
    attributes = done.attributes()
    assert attributes["folded"] == "rows and columns" and Change().attributes() == {}
    again = read_change(attributes, (ROWS, COLUMNS), "w")
    for name, part in vars(done).items():
        assert np.array_equal(part, getattr(again, name)), name
    assert read_change({}, (ROWS, COLUMNS), "w").nothing


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("folded_row_scale", text(np.ones(2, "<f4")), r"w: folded_row_scale: 6 numbers of 4 bytes in base64 expected"),
        ("folded_column_scale", "no base64", r"folded_column_scale: 4 numbers of 4 bytes in base64 expected \(M-12\)"),
        ("folded_column_scale", 1.5, "folded_column_scale: 4 numbers of 4 bytes in base64 expected"),
        ("folded_column_scale", text(np.array([1, 0, 1, 1], "<f4")), "column_scale: positive numbers expected"),
        ("folded_column_scale", text(np.array([1, np.inf, 1, 1], "<f4")), "column_scale: positive numbers"),
        ("folded_column_order", text(np.array([0, 1, 1, 3], "<u4")), "column_order: each of 0 to 3 once expected"),
        ("folded_row_order", text(np.array([0, 1, 2, 3, 4, 6], "<u4")), "row_order: each of 0 to 5 once expected"),
    ],
)
def test_a_damaged_change_is_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_change({key: value}, (ROWS, COLUMNS), "w")
