"""Which token comes next, given the logits."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Real
from typing import Any, cast

import numpy as np

from ggq.errors import NotFiniteError, UsageError
from ggq.generate.finite import WEIGHTS, refusal

NOTHING: Mapping[int, int] = {}

CHANCE = ("temperature", "top_k", "top_p", "min_p", "seed")
"""The fields that matter only where chance decides."""


@dataclass(frozen=True)
class Sampling:
    """How to choose a token; the steps are taken in the order told here, each on what the one before left.

    Args:
        logit_bias: Added to the logits of these token ids, -100 to 100 each.
        presence_penalty: Taken from the logits of tokens that the answer holds, -2 to 2.
        frequency_penalty: The same, as often as the answer holds them.
        repetition_penalty: Logits of tokens that occurred, in the prompt too, are divided by this when positive and
            multiplied when negative; 1 does nothing.
        temperature: Logits are divided by this; 0 takes the most likely token and skips the rest.
        top_k: Keep this many most likely tokens; 0 keeps all.
        top_p: Keep the fewest most likely tokens whose probabilities add up to this; 1 keeps all.
        min_p: Keep tokens at least this times as likely as the most likely one; 0 keeps all.
        seed: Equal seeds give equal texts; None takes a new one.
    """

    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "presence_penalty": within("presence_penalty", self.presence_penalty, -2, 2),
            "frequency_penalty": within("frequency_penalty", self.frequency_penalty, -2, 2),
            "logit_bias": biases(self.logit_bias),
            "repetition_penalty": within("repetition_penalty", self.repetition_penalty, 0.01, 100),
            "temperature": within("temperature", self.temperature, 0, 1000),
            "top_p": within("top_p", self.top_p, 0, 1),
            "min_p": within("min_p", self.min_p, 0, 1),
            "top_k": whole("top_k", self.top_k),
            "seed": None if self.seed is None else whole("seed", self.seed),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def within(name: str, value: object, low: float, high: float) -> float:
    """An argument as a float, whatever kind of number it is, NumPy's included.

    Raises:
        UsageError: It is no number from `low` to `high`.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= cast(float, value) <= high:
        raise UsageError(f"{name} is {value!r}, a number from {low:g} to {high:g} is allowed")
    return float(value)


def whole(name: str, value: object, low: int = 0) -> int:
    """An argument as an int, whatever kind of whole number it is, NumPy's included.

    Raises:
        UsageError: It is no whole number from `low` on.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise UsageError(f"{name} is {value!r}, a whole number from {low} on is allowed")
    return int(value)


def biases(value: object) -> dict[int, float]:
    """What is added to logits, by token id.

    Raises:
        UsageError: It is no mapping of whole numbers to numbers from -100 to 100.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"logit_bias is {value!r:.80}, a mapping of token ids to numbers is allowed")
    return {whole("a token of logit_bias", key): within("logit_bias", each, -100, 100) for key, each in value.items()}


def resolve(given: Mapping[str, object], defaults: Mapping[str, object]) -> Sampling:
    """The sampling that a caller and the model's generation_config.json ask for together.

    Args:
        given: The caller's arguments by field name; None means not given.
        defaults: The parsed generation_config.json; values of the wrong type or out of bounds count as absent.

    Returns:
        What is given wins. The model's own values fill in when its "do_sample" or one of the caller's arguments asks
        for chance (the temperature is 1 if neither names one); else the most likely token is taken.
    """
    chosen = {key: value for key, value in given.items() if value is not None}
    chance = defaults.get("do_sample") is True or any(key in chosen for key in CHANCE)
    merged: dict[str, object] = {"temperature": 1.0 if chance else 0.0}
    for name in (*CHANCE[:-1], "repetition_penalty") if chance else ("repetition_penalty",):
        if name in defaults:
            merged.update(valid(name, defaults[name]))
    return Sampling(**{**merged, **chosen})  # type: ignore[arg-type]


def valid(name: str, value: object) -> dict[str, object]:
    """The one field, or nothing when its value cannot be used."""
    try:
        Sampling(**{name: value})  # type: ignore[arg-type]
    except UsageError:
        return {}
    return {name: value}


class Sampler:
    """Chooses the tokens of one sequence.

    Args:
        sampling: How.
        stream: Sets apart the sequences of a batch that share a seed.
    """

    def __init__(self, sampling: Sampling, stream: int = 0) -> None:
        self.sampling = sampling
        self._stream = stream

    @cached_property
    def _random(self) -> np.random.Generator:
        """Made at the first choice by chance: NumPy's generators take 10 ms to import."""
        seed = self.sampling.seed
        return np.random.default_rng(None if seed is None else seed + self._stream)

    def choose(self, logits: np.ndarray, seen: Collection[int], written: Mapping[int, int] = NOTHING) -> int:
        """The next token.

        Args:
            logits: float32 (vocabulary,).
            seen: Token ids that occurred.
            written: How often each token occurred in the answer.

        Raises:
            NotFiniteError: The logits hold NaN.
        """
        how = self.sampling
        if how.logit_bias or (written and (how.presence_penalty or how.frequency_penalty)):
            logits = shifted(logits, how, written)
        if how.repetition_penalty != 1 and seen:
            logits = penalized(logits, np.fromiter(seen, dtype=np.int64), how.repetition_penalty)
        best = int(np.argmax(logits))  # NaN counts as the largest
        if not math.isfinite(logits[best]):
            raise NotFiniteError(refusal(float(logits[best])), fix=WEIGHTS)
        if how.temperature == 0:
            return best
        ids = np.arange(len(logits)) if not how.top_k else top_k(logits, how.top_k)
        ids = ids[logits[ids] > -np.inf]  # what must not follow has no chance, not even by rounding
        chances = softmax(logits[ids], how.temperature)
        if how.top_p < 1:
            kept = top_p(chances, how.top_p)
            ids, chances = ids[kept], chances[kept]
        if how.min_p > 0:
            kept = chances >= how.min_p * chances.max()
            ids, chances = ids[kept], chances[kept]
        sums = np.cumsum(chances)
        place = int(np.searchsorted(sums, self._random.random() * sums[-1], side="right"))
        return int(ids[min(place, len(ids) - 1)])


def shifted(logits: np.ndarray, how: Sampling, written: Mapping[int, int]) -> np.ndarray:
    """A copy of the logits with what is added to some of them."""
    result = logits.copy()
    for token, bias in how.logit_bias.items():
        if token < len(result):
            result[token] += bias
    ids = np.fromiter(written, np.int64, len(written))
    counts = np.fromiter(written.values(), np.float32, len(written))
    result[ids] -= np.float32(how.presence_penalty) + np.float32(how.frequency_penalty) * counts
    return result


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64 logarithms of the probabilities of the last axis."""
    scaled = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True)))


def penalized(logits: np.ndarray, seen: np.ndarray, penalty: float) -> np.ndarray:
    """A copy of the logits with those of the seen tokens made less likely."""
    result, found = logits.copy(), logits[seen]
    result[seen] = np.where(found > 0, found / penalty, found * penalty)
    return result


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    """float64 probabilities."""
    scaled = (logits.astype(np.float64) - logits.max()) / temperature
    chances = np.exp(scaled)
    return np.asarray(chances / chances.sum())


def top_k(logits: np.ndarray, count: int) -> np.ndarray:
    """Ids of the `count` largest logits, in order of id; of equal ones at the border those with the lowest ids."""
    if count >= len(logits):
        return np.arange(len(logits))
    border = np.partition(logits, len(logits) - count)[len(logits) - count]
    ids = np.flatnonzero(logits >= border)
    extra = len(ids) - count
    return np.delete(ids, np.flatnonzero(logits[ids] == border)[-extra:]) if extra else ids


def top_p(chances: np.ndarray, share: float) -> np.ndarray:
    """Indices of the fewest largest chances that add up to `share`, largest first; one at least."""
    # Those below (1 - share) / n add up to less than 1 - share, so none of them is needed: sort the few that are left.
    few = np.flatnonzero(chances >= (1 - share) / len(chances))
    order = few[np.argsort(-chances[few], kind="stable")]
    sums = np.cumsum(chances[order])
    return order[: int(np.searchsorted(sums, share)) + 1]
