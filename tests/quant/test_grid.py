"""The grid: what a method wishes for, rounded to what every kind of scheme can store; decoding, number by number."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant import check_segments, decode, decode_tensor, pack, parse_scheme, unpack
from ggq.quant.grid import WHOLE, Grid, fit_grid, nearest_entries
from ggq.quant.reference import by_groups, decode_stored, step_sizes
from ggq.quant.transform import to_stored, transform_inputs, with_transform

NAMES = [
    "q4-g32",
    "q3z-g32",
    "q5m-g32",
    "q4-g16-s4",
    "q6-g32-s6",
    "q3z-g32-s8",
    "q4m-g32-s6",
    "q2m-row",
    "ternary-g32",
    "ternary-g16-s6",
    "binary-g64",
    "binary-g32-s4",
    "c4-g32",
    "c3-g32-s6",
    "c2-g64-s8",
]


def table_of(scheme: Scheme, rng: np.random.Generator) -> NDArray[np.int8] | None:
    if scheme.kind != "codebook":
        return None
    return rng.permutation(np.arange(-64, 64))[: scheme.codes].astype(np.int8)


def some_grid(name: str, rows: int, columns: int, seed: int = 0) -> Grid:
    """A grid with steps of both signs where the scheme has them."""
    rng, scheme = np.random.default_rng(seed), parse_scheme(name)
    groups = scheme.geometry((rows, columns)).groups
    step = rng.uniform(0.01, 0.1, (rows, groups)).astype(np.float32)
    if scheme.zero == "none":
        step *= rng.choice(np.float32([-1, 1]), step.shape)
        return fit_grid(step, scheme, codebook=table_of(scheme, rng))
    return fit_grid(step, scheme, minimum=(step * scheme.codes * rng.uniform(0, 1, step.shape)).astype(np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_values_are_what_the_matrix_decodes_to(name: str) -> None:
    grid, shape, rng = some_grid(name, 19, 172), (19, 172), np.random.default_rng(1)
    sizes = grid.scheme.geometry(shape)
    codes = rng.integers(0, grid.scheme.codes, (19, sizes.padded_columns), np.uint8)
    matrix = grid.matrix(codes[:, :172], shape)
    values = grid.values(matrix.codes)
    assert np.array_equal(values[:, :172], decode(matrix))
    segments = pack(matrix)
    check_segments(grid.scheme, shape, segments)
    assert {role: part.size for role, part in segments.items()} == sizes.lengths
    assert np.array_equal(decode_tensor(grid.scheme, shape, segments), decode(matrix))
    back = unpack(grid.scheme, shape, segments)
    for field in ("codes", "scales", "zeros", "subscales", "minimums", "subminimums", "codebook"):
        assert np.array_equal(getattr(back, field), getattr(matrix, field)), field
    # One number at a time, in float64 from what is stored: the same but for float32's rounding.
    r, c = 17, 171
    group = c // sizes.group
    step = float(matrix.scales[r, group // 8 if grid.scheme.subscale else group])
    if matrix.subscales is not None:
        offset = 2 ** (grid.scheme.subscale - 1) if grid.scheme.zero == "none" else 0
        step *= int(matrix.subscales[r, group]) - offset
    code = int(matrix.codes[r, c])
    levels = {"ternary": code - 1, "binary": 2 * code - 1, "uniform": code}
    level = int(matrix.codebook[code]) if matrix.codebook is not None else levels[grid.scheme.kind]
    if grid.scheme.kind == "uniform" and grid.scheme.zero == "none":
        level -= 2 ** (grid.scheme.bits - 1)
    expected = step * (level - (0 if matrix.zeros is None else int(matrix.zeros[r, group])))
    if matrix.minimums is not None:
        minimum = float(matrix.minimums[r, group // 8 if grid.scheme.subscale else group])
        expected -= minimum if matrix.subminimums is None else minimum * int(matrix.subminimums[r, group])
    assert abs(decode(matrix)[r, c] - expected) <= 2**-22 * (abs(step * level) + abs(expected))


@pytest.mark.parametrize("name", NAMES)
def test_nearest_codes_are_nearest(name: str) -> None:
    grid, rng = some_grid(name, 7, 200), np.random.default_rng(2)
    weights = by_groups(rng.standard_normal((7, 200)).astype(np.float32), grid.scheme)
    flat = weights.reshape(7, -1)
    codes = grid.nearest(flat)
    assert codes.max() < grid.scheme.codes
    off = np.abs(grid.values(codes) - flat)
    every = [np.abs(grid.values(np.full_like(codes, code)) - flat) for code in range(grid.scheme.codes)]
    assert (off <= np.min(every, axis=0) * (1 + 2.0**-12) + 1e-7).all()


@pytest.mark.parametrize("name", NAMES)
def test_columns_may_come_one_by_one_in_parts_and_in_any_order(name: str) -> None:
    grid, rng = some_grid(name, 5, 256), np.random.default_rng(3)
    weights = rng.standard_normal((5, 256)).astype(np.float32)
    group = np.arange(256) // grid.scheme.geometry((5, 256)).group
    whole = grid.nearest(weights, WHOLE)
    mixed = rng.permutation(256)
    assert np.array_equal(grid.nearest(weights[:, mixed], group[mixed]), whole[:, mixed])
    assert np.array_equal(grid.values(whole[:, mixed], group[mixed]), grid.values(whole)[:, mixed])
    for column in (0, 100, 255):
        one = weights[:, column : column + 1]
        assert np.array_equal(grid.nearest(one, int(group[column])), whole[:, column : column + 1])
        assert np.array_equal(grid.values(whole[:, [column]], int(group[column])), grid.values(whole)[:, [column]])
    if group[-1] >= 3:
        inside = (group == 1) | (group == 2)
        assert np.array_equal(grid.nearest(weights[:, inside], slice(1, 3)), whole[:, inside])
        assert np.array_equal(grid.values(whole[:, inside], slice(1, 3)), grid.values(whole)[:, inside])


@pytest.mark.parametrize("name", NAMES)
def test_step_table_and_shift_describe_the_values(name: str) -> None:
    grid = some_grid(name, 3, 128)
    assert grid.table.shape == (grid.scheme.codes,)
    codes = np.random.default_rng(4).integers(0, grid.scheme.codes, (3, 128), np.uint8)
    group = np.arange(128) // grid.scheme.geometry((3, 128)).group
    rough = grid.step[:, group] * grid.table[codes] + grid.shift[:, group]
    assert np.allclose(rough, grid.values(codes), rtol=0, atol=2**-20 * np.abs(rough).max())


def test_two_level_steps_by_hand() -> None:
    """Nine groups: eight under one scale, the ninth under its own. 6 bits, symmetric: sub-scales are -32 to 31."""
    scheme = parse_scheme("q4-g32-s6")
    step = np.float32([[32, -8, 0.5, 0.05, 0.01, 0, 31.4, 1, 3]]) / 64
    grid = fit_grid(step, scheme)
    assert grid.scales.tolist() == [[-1 / 64, -3 / 64 / 32]]
    # 0.05 of the step above has a largest level 8 * 0.05 = 0.4, nearer to 0; 0.5 would round to 0 and is kept at 1.
    assert grid.subscales is not None
    assert (grid.subscales.astype(int) - 32).tolist() == [[-32, 8, -1, 0, 0, 0, -31, -1, -32]]
    assert np.array_equal(grid.step, grid.scales.astype(np.float32)[:, [0] * 8 + [1]] * np.int32(grid.subscales - 32.0))
    assert np.array_equal(step_sizes(scheme, grid.scales, grid.subscales, 9), grid.step)


def test_two_level_minimums_by_hand() -> None:
    """4 bits, sub-scales and sub-minimums 0 to 15."""
    scheme = parse_scheme("q4m-g32-s4")
    step, minimum = np.float32([[15, 7, 0.2]]), np.float32([[0.75, 30, 9]])
    grid = fit_grid(step, scheme, minimum=minimum)
    assert grid.minimums is not None and grid.subminimums is not None and grid.subscales is not None
    assert (grid.scales.tolist(), grid.subscales.tolist()) == ([[1]], [[15, 7, 1]])
    assert (grid.minimums.tolist(), grid.subminimums.tolist()) == ([[2]], [[0, 15, 4]])
    assert grid.shift.tolist() == [[0, -30, -8]]
    codes = np.repeat(np.uint8([[3]]), 96, axis=1)
    assert grid.values(codes)[0, ::32].tolist() == [45, -9, -5]


def test_a_zero_point_is_wished_for_directly_or_by_a_minimum() -> None:
    scheme = parse_scheme("q4z-g32")
    step = np.float32([[0.5, 0.25, 0, 1]])
    wished = fit_grid(step, scheme, zero=np.float32([[3, 2.5, -1, 99]]))
    assert wished.zeros is not None and wished.zeros.tolist() == [[3, 2, 0, 15]]
    found = fit_grid(step, scheme, minimum=np.float32([[1.5, 0.625, 3, 99]]))
    assert found.zeros is not None and found.zeros.tolist() == [[3, 2, 0, 15]]


def test_steps_of_zero_and_padding() -> None:
    """A step of 0 gives the code of zero steps; padding columns get what the format asks for, whatever was there."""
    expected = {"q4-g64": 8, "q4m-g64": 0, "ternary-g64": 1, "binary-g64": 0, "c4-g64": 0}
    for name, padding in expected.items():
        scheme = parse_scheme(name)
        zeros = np.zeros((1, 1), np.float32)
        table = np.arange(-9, 7, dtype=np.int8) if scheme.kind == "codebook" else None
        grid = fit_grid(zeros, scheme, minimum=zeros if scheme.zero == "minimum" else None, codebook=table)
        codes = grid.nearest(np.ones((1, 64), np.float32))
        assert not grid.values(codes).any()
        matrix = grid.matrix(np.full((1, 64), 99, np.uint8), (1, 40))
        assert (matrix.codes[:, 40:] == padding).all(), name
        assert (matrix.codes[:, :40] == 99).all()


def test_entries_of_a_table_in_any_order() -> None:
    table = np.float32([5, -3, 5, 0, 60])
    steps = np.float32([-100, -1.6, -1.4, 2.4, 2.6, 32, 33])
    assert nearest_entries(steps, table).tolist() == [1, 1, 3, 3, 0, 0, 4]


@pytest.mark.parametrize("name", ["q4-g32", "q4m-g32-s6", "c4-g64"])
def test_transforms_leave_the_function_unchanged(name: str) -> None:
    """The effective weights times inputs are the stored ones times transformed inputs."""
    rng = np.random.default_rng(6)
    weights = rng.standard_normal((20, 72)).astype(np.float32)
    scale = rng.uniform(0.5, 2, 72).astype(np.float32)
    order = rng.permutation(72).astype(np.uint32)
    x = rng.standard_normal((3, 72))
    stored = to_stored(weights, scale, order)
    assert np.array_equal(stored[:, 5], weights[:, order[5]] / scale[5])
    assert np.allclose(transform_inputs(x, scale, order) @ stored.T, x @ weights.T, atol=1e-5)
    from ggq.quant import choose_method

    scheme = parse_scheme(name)
    plain = choose_method(scheme).quantize(stored, scheme)
    for parts in ((scale, None), (None, order), (scale, order)):
        matrix = with_transform(plain, *parts)
        assert np.array_equal(decode_stored(matrix), decode(plain))
        exact = x @ decode(matrix).astype(np.float64).T
        inputs = transform_inputs(x, matrix.input_scale, matrix.input_order)
        assert np.allclose(inputs @ decode_stored(matrix).astype(np.float64).T, exact, rtol=1e-6, atol=1e-6)
        segments = pack(matrix)
        check_segments(matrix.scheme, matrix.shape, segments)
        assert np.array_equal(decode_tensor(matrix.scheme, matrix.shape, segments), decode(matrix))
