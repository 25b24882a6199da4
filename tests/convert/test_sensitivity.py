"""Sensitivity: what is predicted for small errors is what they do."""

from __future__ import annotations

import numpy as np
import pytest

from ggq.convert.convert import plan
from ggq.convert.mix.sensitivity import CONTEXT, WINDOWS, Traces, random_windows, score, sensitivities
from ggq.tape.cut import Section
from ggq.tape.windows import WindowRun
from tests.kit.support import DEMO
from tests.tape.test_windows import model


def test_traces_are_the_squares_of_the_gradient_column_by_column() -> None:
    random = np.random.default_rng(1)
    tokens, rows, columns = 9, 20, 6
    traces, expected = Traces(), {"a": np.zeros(columns), "embedding.weight": np.zeros(columns)}
    for window in range(2):
        source, slope = random.normal(size=(tokens, columns)), random.normal(size=(tokens, rows))
        traces.add(window, "a", source, slope)
        expected["a"] += np.square(slope.T @ source).sum(axis=0)
        ids, taken = random.integers(rows, size=tokens), random.normal(size=(tokens, columns))
        ids[1] = ids[4]
        whole = slope.T @ source
        np.add.at(whole, ids, taken)
        traces.add(window, "embedding.weight", source, slope)  # a tied one: first met as the output
        traces.add(window, "embedding.weight", ids, taken)
        expected["embedding.weight"] += np.square(whole).sum(axis=0)
    for role, total in expected.items():
        np.testing.assert_allclose(traces.totals[role], total, rtol=1e-6)


def test_a_score_is_one_drawn_token_less_the_chances() -> None:
    random = np.random.default_rng(2)
    logits = np.tile(np.log(np.array([0.5, 0.3, 0.2, 1e-30], np.float32)), (4000, 1))
    found = score(logits.copy(), random)
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-6)
    drawn = (found > 0).sum(axis=0)
    assert (drawn[:3] / 4000 == pytest.approx([0.5, 0.3, 0.2], abs=0.03)) and drawn[3] == 0
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=0.03)  # the expected score is zero


def test_random_windows_are_always_the_same_and_begin_as_texts_do() -> None:
    windows = random_windows(1000, 512, 7)
    assert windows.shape == (WINDOWS, CONTEXT) and windows.dtype == np.int32
    assert (windows[:, 0] == 7).all() and 0 <= windows.min() and windows.max() < 1000
    assert np.array_equal(windows, random_windows(1000, 512, 7))
    assert random_windows(1000, 16, None).shape == (WINDOWS, 16)


def test_the_predicted_divergence_of_small_errors_is_the_measured_one() -> None:
    """On the demo model: within a factor of two for each matrix, as few tokens are drawn, and a quarter on average."""
    planned = plan(DEMO, scheme="f32")
    program, weights = model("demo")
    windows = random_windows(planned.model.vocabulary_size, planned.model.context_length, planned.tokens.bos)
    found = sensitivities(planned.checkpoint, planned.expressions, planned.program, windows)
    assert set(found) == {role for role, array in weights.items() if array.ndim == 2}
    whole = Section("", program.ops, frozenset({program.logits}))

    def log_chances() -> np.ndarray:
        logits = WindowRun(windows.shape[1], weights.__getitem__).run(whole, windows, {})[program.logits]
        exact = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        return exact - np.log(np.exp(exact).sum(axis=-1, keepdims=True))

    p, ratios, random = log_chances(), [], np.random.default_rng(3)
    for role in (*list(found)[::3], "embedding.weight"):
        exact = weights[role]
        spread = 0.03 * np.sqrt(np.mean(np.square(exact), axis=0))  # each column's own
        weights[role] = exact + (random.normal(size=exact.shape) * spread).astype(np.float32)
        measured = float((np.exp(p) * (p - log_chances())).sum(axis=-1).mean())
        weights[role] = exact
        ratios.append(float(found[role] @ np.square(spread)) / 2 / measured)
    assert all(0.5 < ratio < 2 for ratio in ratios), ratios
    assert np.exp(np.mean(np.log(ratios))) == pytest.approx(1, abs=0.25)
