"""Perplexity and divergence, against sums written out in plain NumPy and models whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ggq.errors import ModelError, UsageError
from ggq.evaluate import text_windows as windows_module
from ggq.evaluate.reference import LogProbs, ModelReference
from ggq.evaluate.saved import top_logits
from ggq.evaluate.scores import Scores, divergence, score, standard_error
from ggq.evaluate.text_windows import Windows, make_windows, parts
from ggq.tape.program import Run

Logits = Callable[[list[int]], np.ndarray]


class Table:
    """An executor whose logits are a function of all tokens so far."""

    def __init__(self, logits: Logits) -> None:
        self.logits, self.sequences, self.opened = logits, dict[int, list[int]](), 0

    def open_sequence(self) -> int:
        self.opened += 1
        self.sequences[self.opened] = []
        return self.opened

    def close_sequence(self, sequence: int) -> None:
        del self.sequences[sequence]

    def forward(self, runs: Sequence[Run]) -> np.ndarray:
        rows = []
        for run in runs:
            for token in run.tokens.tolist():
                self.sequences[run.sequence].append(token)
                if run.logits == "all":
                    rows.append(self.logits(self.sequences[run.sequence]))
        return np.array(rows, np.float32)


def model_with(logits: Logits, vocabulary: int, context: int = 1000) -> Any:
    config = SimpleNamespace(vocabulary_size=vocabulary, context_length=context)
    return SimpleNamespace(executor=Table(logits), config=config, reader=SimpleNamespace(path="model.ggq"))


def random_model(seed: int, vocabulary: int = 40, spread: float = 3.0, noise: float = 0.0) -> Any:
    """Logits that hang on the last two tokens, and noise of another seed over them."""
    table = np.random.default_rng(seed).normal(0, spread, (vocabulary, vocabulary, vocabulary))
    table += np.random.default_rng(seed + 1000).normal(0, noise, table.shape)
    return model_with(lambda ids: table[ids[-1], ids[-2] if len(ids) > 1 else 0], vocabulary)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float32).astype(np.float64)
    return logits - np.log(np.exp(logits).sum())


def ids_of(count: int, vocabulary: int = 40, seed: int = 5) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocabulary, count).tolist()


def written_out(model: Any, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """-log p of each scored token and all log-probabilities, one token at a time."""
    nll, rows = [], []
    for row in windows.ids.tolist():
        for place in range(windows.context - windows.scored, windows.context):
            found = log_softmax(model.executor.logits(row[:place]))
            rows.append(found)
            nll.append(-found[row[place]])
    return np.array(nll), np.array(rows)


def test_windows_lie_side_by_side_and_their_second_halves_count() -> None:
    windows = make_windows(range(23), 6)
    assert windows.ids.tolist() == [list(range(6)), list(range(6, 12)), list(range(12, 18))]
    assert (windows.scored, windows.tokens) == (3, 9)
    assert windows.targets.tolist() == [3, 4, 5, 9, 10, 11, 15, 16, 17]


@pytest.mark.parametrize(
    ("context", "stride", "targets"),
    [
        (6, 3, [3, 4, 5, 6, 7, 8, 9, 10, 11]),  # every token once
        (6, 2, [4, 5, 6, 7, 8, 9, 10, 11]),  # every token once, four or more before each
        (6, 1, [5, 6, 7, 8, 9, 10, 11]),
        (6, 5, [3, 4, 5, 8, 9, 10]),  # at least half a window before each; some are not scored
        (5, 5, [2, 3, 4, 7, 8, 9]),  # the larger half of an odd window
        (2, 2, [1, 3, 5, 7, 9, 11]),
    ],
)
def test_no_token_is_scored_twice(context: int, stride: int, targets: list[int]) -> None:
    assert make_windows(range(12), context, stride).targets.tolist() == targets


def test_windows_can_be_fewer_and_begin_with_a_token() -> None:
    windows = make_windows(range(100), 4, 2, limit=2, begin=77)
    assert windows.ids.tolist() == [[77, 1, 2, 3], [77, 3, 4, 5]]
    assert windows.digest != make_windows(range(100), 4, 2, limit=2).digest


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"context": 1}, "context must be 2 or more, not 1"),
        ({"context": 4, "stride": 0}, "stride must be 1 or more, not 0"),
        ({"context": 4, "limit": 0}, "windows must be 1 or more, not 0"),
        ({"context": 11}, "the text has 10 tokens, fewer than one window of 11"),
    ],
)
def test_windows_that_cannot_be(arguments: dict[str, int], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        make_windows(range(10), **arguments)


@pytest.mark.parametrize(
    ("context", "stride", "count", "vocabulary"), [(6, 6, 5, 100), (6, 2, 9, 3), (7, 7, 4, 10), (2, 2, 3, 1)]
)
@pytest.mark.parametrize("room", [1, 5, 30, 1000])
def test_parts_are_all_scored_tokens_in_order(
    context: int, stride: int, count: int, vocabulary: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows_module, "PART_LOGITS", room * vocabulary)
    windows = make_windows(range(1000), context, stride, limit=count)
    places = np.arange(windows.tokens).reshape(count, windows.scored)
    found = list(parts(windows, vocabulary))
    rows = [places[part.windows, part.scored].reshape(-1).tolist() for part in found]
    assert sum(rows, []) == list(range(windows.tokens))
    assert [list(range(windows.tokens))[part.rows] for part in found] == rows
    assert max(map(len, rows)) <= room


@pytest.fixture(params=[1, 7, 64, 10**6])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Rows of a part: less than a window's, several windows', all."""
    monkeypatch.setattr(windows_module, "PART_LOGITS", request.param * 40)
    yield request.param


@pytest.mark.parametrize("stride", [None, 4, 3])
def test_figures_are_the_sums_written_out(room: int, stride: int | None) -> None:
    exact, other = random_model(1), random_model(1, noise=0.4)
    windows = make_windows(ids_of(90), 8, stride)
    p_nll, p = written_out(exact, windows)
    q_nll, q = written_out(other, windows)
    kld = (np.exp(p) * (p - q)).sum(axis=1)
    for reference in (ModelReference(exact), LogProbs.of(exact, windows)):
        scores = score(other, windows, reference)
        found = scores.figures()
        assert scores.nll == pytest.approx(q_nll, rel=1e-12)
        assert found["perplexity"] == pytest.approx(math.exp(q_nll.mean()))
        assert found["reference_perplexity"] == pytest.approx(math.exp(p_nll.mean()))
        assert scores.kld == pytest.approx(kld, abs=2e-6)  # LogProbs keeps float32
        assert found["mean_kld"] == pytest.approx(kld.mean(), abs=1e-6)
        assert found["kld_p99"] == pytest.approx(np.quantile(kld, 0.99), abs=2e-6)
        assert found["kld_median"] == pytest.approx(np.median(kld), abs=2e-6)
        assert found["kld_max"] == pytest.approx(kld.max(), abs=2e-6)
        assert found["same_top"] == (p.argmax(axis=1) == q.argmax(axis=1)).mean() < 1
    assert not exact.executor.sequences and not other.executor.sequences  # all closed


def test_a_model_is_no_distance_from_itself() -> None:
    model, windows = random_model(2), make_windows(ids_of(64), 8)
    assert divergence(model, ModelReference(model), windows) == pytest.approx(0, abs=1e-15)
    assert divergence(model, LogProbs.of(model, windows), windows) == pytest.approx(0, abs=1e-6)
    assert divergence(model, top_logits(model, windows, 3), windows) == pytest.approx(0, abs=1e-6)
    assert score(model, windows, ModelReference(model)).figures()["same_top"] == 1


def test_saved_tops_bound_the_divergence_from_below() -> None:
    """The likeliest k tokens and one for all the others: by the definition, rising with k, exact for all."""
    exact, other = random_model(3), random_model(3, noise=0.5)
    windows = make_windows(ids_of(80), 8)
    p, q = written_out(exact, windows)[1], written_out(other, windows)[1]
    found = []
    for top in (1, 2, 5, 20, 39, 40, 99):
        order = np.argsort(-p, axis=1)[:, :top]
        expected = np.zeros(len(p))
        for row, ids in enumerate(order):
            rest = np.setdiff1d(np.arange(40), ids)
            few = [*np.exp(p[row, ids]), np.exp(p[row, rest]).sum()], [*np.exp(q[row, ids]), np.exp(q[row, rest]).sum()]
            expected[row] = sum(a * math.log(a / b) for a, b in zip(*few) if a > 0)
        scores = score(other, windows, top_logits(exact, windows, top))
        assert scores.kld == pytest.approx(expected, abs=2e-6)
        assert scores.same_top is not None
        assert scores.same_top.tolist() == (p.argmax(axis=1) == q.argmax(axis=1)).tolist()
        found.append(scores.mean_kld)
    assert found[:6] == sorted(found[:6])
    whole = (np.exp(p) * (p - q)).sum(axis=1).mean()
    assert found[-2:] == pytest.approx([whole, whole], abs=1e-6)


def test_a_model_that_knows_nothing_is_as_perplexed_as_the_vocabulary_is_large() -> None:
    scores = score(model_with(lambda ids: np.full(7, 3.0), 7), make_windows(list(range(7)) * 3, 10))
    assert scores.perplexity == pytest.approx(7)
    assert scores.figures()["perplexity_error"] == pytest.approx(0, abs=1e-12)


def test_the_next_token_is_scored_and_not_this_one() -> None:
    """A model that gives the successor of each token the odds 3 : 1 : 1 : 1."""

    def logits(ids: list[int]) -> np.ndarray:
        row = np.zeros(4)
        row[(ids[-1] + 1) % 4] = math.log(3)
        return row

    assert score(model_with(logits, 4), make_windows([0, 1, 2, 3, 0, 1], 6)).perplexity == pytest.approx(2)
    assert score(model_with(logits, 4), make_windows([0] * 6, 6)).perplexity == pytest.approx(6)


def test_standard_errors() -> None:
    values = np.array([1.0, 2.0, 4.0])
    assert standard_error(values) == pytest.approx(math.sqrt(7 / 3) / math.sqrt(3))
    assert math.isnan(standard_error(values[:1]))
    generator = np.random.default_rng(8)
    hard = generator.gamma(2.0, 1.0, 4000)  # what is hard for both
    one, two = hard + generator.normal(0, 0.1, 4000), hard + generator.normal(0.02, 0.1, 4000)
    found = Scores(two, one, np.zeros(4000), np.ones(4000, bool)).figures()
    p, q = math.exp(one.mean()), math.exp(two.mean())
    assert found["perplexity_error"] == pytest.approx(q * two.std(ddof=1) / math.sqrt(4000))
    covariance = np.cov(two, one)
    variance = q * q * covariance[0, 0] + p * p * covariance[1, 1] - 2 * p * q * covariance[0, 1]
    assert found["perplexity_difference_error"] == pytest.approx(math.sqrt(variance / 4000))
    assert found["perplexity_difference_error"] < found["perplexity_error"] / 5


def test_the_paired_error_is_the_spread_of_repeated_measurements() -> None:
    generator, differences, errors = np.random.default_rng(9), [], []
    for _ in range(300):
        hard = generator.gamma(2.0, 0.8, 500)
        one, two = hard + generator.normal(0, 0.1, 500), hard + generator.normal(0.02, 0.1, 500)
        found = Scores(two, one, np.zeros(500), np.ones(500, bool)).figures()
        differences.append(found["perplexity_difference"])
        errors.append(found["perplexity_difference_error"])
    assert np.mean(errors) == pytest.approx(np.std(differences), rel=0.1)


def test_progress_counts_scored_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows_module, "PART_LOGITS", 5 * 40)
    model, windows, seen = random_model(4), make_windows(ids_of(33), 8), list[tuple[int, int]]()
    score(model, windows, None, lambda done, total: seen.append((done, total)))
    assert seen == [(4, 16), (8, 16), (12, 16), (16, 16)]
    again = seen.copy()
    seen.clear()
    top_logits(model, windows, 2, progress=lambda done, total: seen.append((done, total)))
    assert seen == again


def test_refusals() -> None:
    model, windows = random_model(5), make_windows(ids_of(40), 8)
    with pytest.raises(UsageError, match="windows of 8 tokens do not fit into the model's context of 7"):
        score(model_with(model.executor.logits, 40, 7), windows)
    with pytest.raises(UsageError, match="token id 32 is outside the vocabulary, 0 to 29 allowed"):
        score(random_model(5, 30), make_windows([*range(32, 40)], 8))
    with pytest.raises(UsageError, match="a vocabulary of 40 tokens, the reference has 30"):
        score(model, windows, ModelReference(random_model(5, 30)))
    with pytest.raises(ModelError, match="the model computes NaN or infinity"):
        score(model_with(lambda ids: np.array([0, np.nan]), 2), make_windows([0, 1, 0, 1], 2))
    with pytest.raises(UsageError, match="there is no divergence without a reference"):
        _ = score(model, windows).mean_kld
    with pytest.raises(UsageError, match="top is 0, at least 1 needed"):
        top_logits(model, windows, 0)
    known = LogProbs.of(model, windows)
    for asked, problem in (
        (make_windows(ids_of(40), 10), "context 8 in the reference, 10 asked for"),
        (make_windows(ids_of(40), 8, 4), "stride 8 in the reference, 4 asked for"),
        (make_windows(ids_of(48), 8), "5 windows in the reference, 6 asked for"),
        (make_windows(ids_of(40, seed=6), 8), "made from another text or tokenizer: token 0 of window 0 is"),
    ):
        with pytest.raises(UsageError, match=problem):
            divergence(model, known, asked)
    assert not model.executor.sequences
