"""What a model is compared with: the log-probabilities of another one, from memory or computed alongside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ggq.errors import UsageError
from ggq.evaluate.forward import log_probabilities
from ggq.evaluate.text_windows import Windows, parts
from ggq.generate.model import Model


class Distribution(NamedTuple):
    """The reference's distributions over some scored tokens.

    Args:
        ids: Integers (rows, k): whose log-probabilities follow, the likeliest first; None for the whole vocabulary.
        log_probs: float (rows, k or vocabulary).
        rest: float (rows,): logarithm of what all other tokens have together; None with the whole vocabulary.
        targets: float64 (rows,): log-probability of the token that is there.
    """

    ids: NDArray[np.integer] | None
    log_probs: NDArray[np.floating]
    rest: NDArray[np.floating] | None
    targets: NDArray[np.float64]

    def top(self) -> NDArray[np.integer]:
        """The likeliest token of each row."""
        return self.log_probs.argmax(axis=1) if self.ids is None else self.ids[:, 0]

    def divergence(self, log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
        """KL divergence of a model from this reference, nats for each row.

        Where only the likeliest tokens are known, the others count as one token together. That gives a lower bound of
        the divergence (log-sum inequality), which is exact when nothing is left over.

        Args:
            log_probs: The model's, float64 (rows, vocabulary).

        Returns:
            sum over tokens of p * (log p - log q): float64 (rows,), 0 up to rounding where they are the same.
        """
        p = self.log_probs.astype(np.float64)
        if self.ids is None or self.rest is None:
            return np.einsum("ij,ij->i", np.exp(p), p - log_probs)
        q = np.take_along_axis(log_probs, self.ids.astype(np.int64), axis=1)
        known = np.einsum("ij,ij->i", np.exp(p), p - q)
        if self.ids.shape[1] == log_probs.shape[1]:
            return known
        others = np.exp(log_probs)
        np.put_along_axis(others, self.ids.astype(np.int64), 0.0, axis=1)
        rest, smallest = self.rest.astype(np.float64), np.finfo(np.float64).tiny
        return known + np.exp(rest) * (rest - np.log(np.maximum(others.sum(axis=1), smallest)))


class Reference(Protocol):
    """Anything that a model can be compared with."""

    @property
    def vocabulary(self) -> int:
        """Tokens of its vocabulary."""
        ...

    def distributions(self, windows: Windows) -> Iterator[Distribution]:
        """Its distributions over the scored tokens of windows, one for each of `parts`, in order.

        Raises:
            UsageError: It knows nothing of these windows.
        """
        ...


@dataclass(frozen=True)
class ModelReference:
    """A second model that runs alongside, a part of the text at a time."""

    model: Model

    @property
    def vocabulary(self) -> int:
        """See `Reference`."""
        return self.model.config.vocabulary_size

    def distributions(self, windows: Windows) -> Iterator[Distribution]:
        """See `Reference`."""
        for part, log_probs in log_probabilities(self.model, windows):
            yield Distribution(None, log_probs, None, chosen(log_probs, windows.targets[part.rows]))


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities over the whole vocabulary, kept in memory: for many comparisons with the same reference.

    Args:
        windows: What they were computed on.
        values: float32 (tokens, vocabulary).
    """

    windows: Windows
    values: NDArray[np.float32]

    @staticmethod
    def of(model: Model, windows: Windows) -> LogProbs:
        """Run a model once; takes 4 bytes for each scored token and token of the vocabulary."""
        values = np.empty((windows.tokens, model.config.vocabulary_size), np.float32)
        for part, log_probs in log_probabilities(model, windows):
            values[part.rows] = log_probs
        return LogProbs(windows, values)

    @property
    def vocabulary(self) -> int:
        """See `Reference`."""
        return self.values.shape[1]

    def distributions(self, windows: Windows) -> Iterator[Distribution]:
        """See `Reference`."""
        check_windows(self.windows, windows)
        for part in parts(windows, self.vocabulary):
            rows = self.values[part.rows]
            yield Distribution(None, rows, None, chosen(rows, windows.targets[part.rows]))


def chosen(log_probs: NDArray[np.floating], targets: NDArray[np.integer]) -> NDArray[np.float64]:
    """The log-probability of one token of each row."""
    return log_probs[np.arange(len(targets)), targets].astype(np.float64)


OWN_MODEL = "compare a file with its own unquantized model"
SAME_TEXT = "give the text that the reference was made from, or make it anew"


def check_windows(known: Windows, asked: Windows, path: str | None = None, fix: str = SAME_TEXT) -> None:
    """Refuse windows that are not the first ones of those that a reference was computed on.

    Args:
        known: Of the reference.
        asked: What is to be scored.
        path: The reference's file.
        fix: What to do where tokens differ.

    Raises:
        UsageError: Another context, stride or text, or more windows.
    """
    for name in ("context", "stride", "recipe"):
        here, there = getattr(asked, name), getattr(known, name)
        if here != there:
            problem = f"{name} {there} in the reference, {here} asked for"
            raise UsageError(problem, path=path, fix=f"give --{name} {there}" if there else f"leave out --{name}")
    common = min(known.count, asked.count)
    different = np.argwhere(known.ids[:common] != asked.ids[:common])
    if len(different):
        window, column = (int(i) for i in different[0])
        problem = (
            f"made from another text or tokenizer: token {column} of window {window} is "
            f"{known.ids[window, column]}, here it is {asked.ids[window, column]}"
        )
        raise UsageError(problem, path=path, fix=fix)
    if asked.count > known.count:
        problem = f"{known.count} windows in the reference, {asked.count} asked for"
        raise UsageError(problem, path=path, fix=f"give --windows {known.count}")
