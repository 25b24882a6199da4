"""The figures: perplexity and divergence, from numbers of single tokens."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ggq.errors import UsageError
from ggq.evaluate.forward import log_probabilities
from ggq.evaluate.reference import OWN_MODEL, Reference, chosen
from ggq.evaluate.text_windows import Progress, Windows, report_progress
from ggq.generate.model import Model


@dataclass(frozen=True)
class Scores:
    """What a model made of each scored token.

    Args:
        nll: float64 (tokens,): -log p(token), nats.
        reference_nll: The same of the reference; None without one.
        kld: float64 (tokens,): KL divergence from the reference, nats; None without one.
        same_top: bool (tokens,): whether both find the same token the likeliest; None without one.
        weights: float64 (tokens,): what each counts in the means; None where all count the same.
    """

    nll: NDArray[np.float64]
    reference_nll: NDArray[np.float64] | None = None
    kld: NDArray[np.float64] | None = None
    same_top: NDArray[np.bool_] | None = None
    weights: NDArray[np.float64] | None = None

    @property
    def perplexity(self) -> float:
        """exp of the mean of -log p(token)."""
        return float(np.exp(np.average(self.nll, weights=self.weights)))

    @property
    def mean_kld(self) -> float:
        """Mean KL divergence from the reference in nats.

        Raises:
            UsageError: There was no reference.
        """
        if self.kld is None:
            raise UsageError("there is no divergence without a reference")
        return float(self.kld.mean())

    def figures(self) -> dict[str, float]:
        """All figures by name; those that need a reference only with one.

        Errors are standard errors that take tokens for independent. Perplexity's is the perplexity times that of the
        mean of -log p; that of the difference is paired: of each token's share in the difference, so what is hard for
        both models cancels.
        """
        perplexity = self.perplexity
        found = {"perplexity": perplexity, "perplexity_error": perplexity * standard_error(self.nll, self.weights)}
        if self.reference_nll is None or self.kld is None or self.same_top is None:
            return found
        other = float(np.exp(self.reference_nll.mean()))
        return {
            **found,
            "reference_perplexity": other,
            "reference_perplexity_error": other * standard_error(self.reference_nll),
            "perplexity_difference": perplexity - other,
            "perplexity_difference_error": standard_error(perplexity * self.nll - other * self.reference_nll),
            "mean_kld": self.mean_kld,
            "mean_kld_error": standard_error(self.kld),
            "kld_median": float(np.median(self.kld)),
            "kld_p99": float(np.quantile(self.kld, 0.99)),
            "kld_max": float(self.kld.max()),
            "same_top": float(self.same_top.mean()),
        }


def standard_error(values: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> float:
    """Standard error of the mean of independent values; NaN of a single one, of which it is unknown."""
    if weights is not None and len(values) > 1:
        away = values - np.average(values, weights=weights)
        return float(np.sqrt(np.square(weights * away).sum()) / weights.sum())
    return float(values.std(ddof=1)) / sqrt(len(values)) if len(values) > 1 else float("nan")


def score(
    model: Model, windows: Windows, reference: Reference | None = None, progress: Progress | None = None
) -> Scores:
    """Run a model over windows and, with a reference, compare it token by token.

    Args:
        model: It sees each window's tokens in order and predicts the scored ones.
        windows: From `make_windows`.
        reference: What to compare with.
        progress: Called after each part.

    Raises:
        UsageError: The windows do not fit the model or the reference, or the vocabularies differ.
        ModelError: A model computes NaN or infinity.
    """
    nll = np.empty(windows.tokens)
    if reference is None:
        for part, log_probs in log_probabilities(model, windows):
            nll[part.rows] = -chosen(log_probs, windows.targets[part.rows])
            report_progress(progress, part.rows.stop, windows)
        return Scores(nll)
    check_vocabulary(model, reference)
    reference_nll, kld, same = np.empty_like(nll), np.empty_like(nll), np.empty(windows.tokens, np.bool_)
    pairs = zip(log_probabilities(model, windows), reference.distributions(windows), strict=True)
    for (part, log_probs), distribution in pairs:
        nll[part.rows] = -chosen(log_probs, windows.targets[part.rows])
        reference_nll[part.rows] = -distribution.targets
        kld[part.rows] = distribution.divergence(log_probs)
        same[part.rows] = log_probs.argmax(axis=1) == distribution.top()
        report_progress(progress, part.rows.stop, windows)
    return Scores(nll, reference_nll, kld, same)


def divergence(model: Model, reference: Reference, windows: Windows) -> float:
    """Mean KL divergence of a model from a reference, nats for each scored token.

    The short way for a search that tries many files on the same windows:

        windows = make_windows(exact.encode(text, begin=False), 256, limit=24)
        reference = LogProbs.of(exact, windows)
        divergence(candidate, reference, windows)

    Args, Raises: See `score`.
    """
    return score(model, windows, reference).mean_kld


def check_vocabulary(model: Model, reference: Reference) -> None:
    """Refuse a reference whose tokens are others."""
    here, there = model.config.vocabulary_size, reference.vocabulary
    if here != there:
        problem = f"a vocabulary of {here} tokens, the reference has {there}"
        raise UsageError(problem, path=model.reader.path, fix=OWN_MODEL)
