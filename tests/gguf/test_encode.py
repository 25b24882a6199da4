"""Encoders of GGUF types: what they write is near to the weights, and nearer where errors count for more."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ggq.format.gguf.types import TYPES
from ggq.gguf.blocks import numbers, rows_of
from ggq.gguf.encode import encoders
from ggq.gguf.encode.encoders import ENCODERS, encoded
from ggq.gguf.encode.length import UPPER_SCALES, lengthen
from ggq.gguf.encode.sums import Lanes, Levels

MOST = {"Q2_K": 0.282, "Q3_K": 0.15, "Q4_K": 0.073, "Q5_K": 0.036, "Q6_K": 0.0172, "IQ4_NL": 0.076}
MOST |= {"IQ4_XS": 0.077, "TQ1_0": 0.46, "TQ2_0": 0.46, "MXFP4": 0.115}
"""Relative errors for Gaussian weights, 2 or 3 % more than what is found."""

KINDS = pytest.mark.parametrize("kind", ENCODERS, ids=lambda kind: TYPES[kind].name)


def weights(rows: int = 20, columns: int = 768) -> NDArray[np.float32]:
    """Gaussian numbers with an outlier, and rows that are zero, tiny, large, positive, constant and of a few levels."""
    rng = np.random.default_rng(7)
    made = (rng.standard_normal((rows, columns)) * 0.05).astype(np.float32)
    made[1, 3], made[2], made[3], made[4] = 1.5, 0, made[3] * 1e-4, made[4] * 1e3
    made[5], made[6], made[7] = np.abs(made[5]), 0.5, np.sign(made[7]) * 0.25
    made[8, :300], made[9, 256:] = 1e-30, 0
    return made


def decoded(kind: int, rows: NDArray[np.float32], data: NDArray[np.uint8]) -> NDArray[np.float32]:
    return numbers(kind, rows_of(kind, data, rows.shape))


def error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


@KINDS
def test_numbers_are_near(kind: int) -> None:
    rows, most = weights(), MOST[TYPES[kind].name]
    found = decoded(kind, rows, encoded(kind, rows))
    assert error(found[10:], rows[10:]) < most
    for row in (4, 5):
        assert error(found[row], rows[row]) < 1.3 * most
    assert not found[2].any() and not found[9, 256:].any()
    assert np.abs(found[8, :256]).max() < 1e-6
    assert error(found[6], rows[6]) < 2e-3 and error(found[7], rows[7]) < 0.05


@KINDS
def test_compiled_code_writes_the_same_bytes(kind: int) -> None:
    rows, importance = weights(), np.random.default_rng(1).random(768, np.float32)
    for counts in (None, importance):
        found, expected = encoded(kind, rows, counts), encoded(kind, rows, counts, compiled=False)
        assert found.tobytes() == expected.tobytes()


@KINDS
def test_columns_that_count_are_nearer(kind: int) -> None:
    rows, importance = weights()[10:], np.ones(768, np.float32)
    importance[::4] = 50
    plain, aware = (
        float(((decoded(kind, rows, encoded(kind, rows, counts)) - rows) ** 2 * importance).sum())
        for counts in (None, importance)
    )
    assert aware < 0.99 * plain
    odd = importance.copy()
    odd[:5] = np.nan, np.inf, 0, -1, 1e-30
    assert np.isfinite(decoded(kind, rows, encoded(kind, rows, odd))).all()
    nothing = encoded(kind, rows, np.zeros(768, np.float32))
    assert nothing.tobytes() == encoded(kind, rows, np.ones(768, np.float32)).tobytes()


@pytest.mark.parametrize("kind", UPPER_SCALES, ids=lambda kind: TYPES[kind].name)
@pytest.mark.parametrize("known", [False, True])
def test_rows_are_as_long_as_their_weights(kind: int, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Along the weights nothing is lost; the error grows by no more than that takes."""
    rows = weights()[10:]
    counts = np.random.default_rng(1).random(768, np.float32) ** 4 if known else np.ones(768, np.float32)

    def shares() -> tuple[NDArray[np.float64], float]:
        found = decoded(kind, rows, encoded(kind, rows, counts if known else None)).astype(np.float64)
        return (counts * rows * found).sum(1) / (counts * rows * rows).sum(1), float(
            (counts * (found - rows) ** 2).sum()
        )

    longer, error = shares()
    monkeypatch.setattr(encoders, "UPPER_SCALES", {})
    as_near, least = shares()
    assert np.abs(longer - 1).max() < 4e-4
    assert np.abs(as_near - 1).max() > {10: 0.02, 11: 0.01, 12: 0.002}[kind]
    assert error < least * (1 + 1.2 * least / float((counts * rows.astype(np.float64) ** 2).sum()))


def test_rows_of_which_little_is_kept_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = weights()[10:11]
    blocks = encoded(11, rows)
    for other in (2 * rows, -rows, 0 * rows):
        same = blocks.copy()
        lengthen(11, other, None, same)
        assert same.tobytes() == blocks.tobytes()


@KINDS
def test_rows_are_independent(kind: int) -> None:
    rows = weights(33, 256)
    whole = encoded(kind, rows)
    for row in (0, 6, 32):
        assert encoded(kind, rows[row : row + 1]).tobytes() == whole[row].tobytes()


@pytest.mark.parametrize("kind", [34, 35], ids=["TQ1_0", "TQ2_0"])
def test_ternary_weights_stay_what_they_are(kind: int) -> None:
    rng = np.random.default_rng(3)
    steps = np.array([0.25, 0.0371, 3.5], np.float16).astype(np.float32)
    rows = (rng.integers(-1, 2, (3, 512)) * steps[:, None]).astype(np.float32)
    np.testing.assert_array_equal(decoded(kind, rows, encoded(kind, rows)), rows)


def test_numbers_of_a_type_stay_what_they_are() -> None:
    rng = np.random.default_rng(3)
    rows = (rng.integers(-31, 32, (4, 512)) * np.float32(0.03125)).astype(np.float32)
    rows[:, ::16] = 1.0  # -32 steps of -1/32
    np.testing.assert_array_equal(decoded(14, rows, encoded(14, rows)), rows)


@pytest.mark.parametrize("levels", [Levels(-4, 3), Levels(0, 15), Levels(table=np.array([-7, -2, 1, 9], np.float32))])
def test_errors_are_those_of_the_levels(levels: Levels) -> None:
    rng = np.random.default_rng(5)
    blocks = rng.standard_normal((21, 64)).astype(np.float32)
    energy = rng.random((21, 64), np.float32) + np.float32(0.1)
    lanes = Lanes(blocks, energy, 16)
    step, shift = (rng.random((4, 32), np.float32) * np.float32(scale) for scale in (0.5, 0.3))
    levels_found = lanes.codes(levels, step, shift)
    values = levels_found * step.T[:21, :, None] - shift.T[:21, :, None]
    expected = ((blocks.reshape(21, 4, 16) - values) ** 2 * energy.reshape(21, 4, 16)).sum(2)
    np.testing.assert_allclose(lanes.error(levels, step, shift).T[:21], expected, rtol=1e-4, atol=1e-5)
    t = (blocks.reshape(21, 4, 16) + shift.T[:21, :, None]) / step.T[:21, :, None]
    table = np.arange(levels.low, levels.high + 1) if levels.table is None else levels.table
    best = np.abs(t[..., None] - table).min(-1)
    np.testing.assert_allclose(np.abs(t - levels_found), best, rtol=1e-3, atol=1e-3)
