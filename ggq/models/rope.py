"""How fast each pair of a head turns per position, and how that is changed where a context was stretched."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np

from ggq.models.field import Flag, Integer, Number, Numbers, Part, Word
from ggq.tape.rotation import LAYOUTS, Rotation

Factor = Annotated[float, Number(0.0, 1e6, "how far the context was stretched")]
OriginalContext = Annotated[int, Integer(1, 1 << 27, "context before stretching, in tokens")]


@dataclass(frozen=True)
class Linear:
    """Every pair is slowed by `factor`: positions are squeezed together."""

    kind: ClassVar[str] = "linear"
    attention_factor: ClassVar[float] = 1.0
    factor: Factor

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        return None

    def stretched(self, plain: np.ndarray, theta: float) -> np.ndarray:
        """The frequencies after stretching, given those before, float64 (pairs,)."""
        return np.asarray(plain / self.factor)


@dataclass(frozen=True)
class Llama3:
    """Slow pairs are slowed by `factor`, fast ones kept, and those between blended by their wavelength.

    Source: the Llama 3.1 release.
    """

    kind: ClassVar[str] = "llama3"
    attention_factor: ClassVar[float] = 1.0
    factor: Factor
    low_frequency_factor: Annotated[
        float, Number(0.0, 1e6, "wavelengths above original context / this are divided by `factor`")
    ]
    high_frequency_factor: Annotated[
        float,
        Number(0.0, 1e6, "wavelengths below original context / this are left alone; between the two, interpolated"),
    ]
    original_context_length: OriginalContext

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        if self.low_frequency_factor < self.high_frequency_factor:
            return None
        return (
            f"llama3 RoPE scaling needs its low frequency factor ({self.low_frequency_factor:g}) "
            f"below the high one ({self.high_frequency_factor:g})"
        )

    def stretched(self, plain: np.ndarray, theta: float) -> np.ndarray:
        """The frequencies after stretching, given those before, float64 (pairs,)."""
        turns = self.original_context_length * plain / (2 * math.pi)  # full turns within the original context
        width = self.high_frequency_factor - self.low_frequency_factor
        kept = np.clip((turns - self.low_frequency_factor) / width, 0.0, 1.0)
        return np.asarray(kept * plain + (1 - kept) * plain / self.factor)


@dataclass(frozen=True)
class Yarn:
    """Pairs that turn seldom in the original context are slowed by `factor`, those that turn often are kept: with
    c(beta) = rotated * ln(original_context_length / (2 pi beta)) / (2 ln theta), low = max(c(beta_fast), 0) and
    high = min(c(beta_slow), rotated - 1), the share of pair i is (i - low) / (high - low), at least 0 and at most 1,
    and its frequency is multiplied with share / factor + 1 - share. Where low equals high, high is 0.001 more.

    Source: Peng et al. 2023, sections 3.2 and 3.4.
    """

    kind: ClassVar[str] = "yarn"
    factor: Factor
    original_context_length: OriginalContext
    beta_fast: Annotated[float, Number(0.0, 1e6, "turns in the original context from which a pair is kept")]
    beta_slow: Annotated[float, Number(0.0, 1e6, "turns in the original context up to which a pair is slowed")]
    truncate: Annotated[bool, Flag("c(beta_fast) is rounded down, c(beta_slow) up")]
    attention_factor: Annotated[float, Number(0.0, 1e6, "cosines and sines are multiplied with it")]

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        if self.beta_slow < self.beta_fast:
            return None
        return f"YaRN needs its slow beta ({self.beta_slow:g}) below the fast one ({self.beta_fast:g})"

    def stretched(self, plain: np.ndarray, theta: float) -> np.ndarray:
        """The frequencies after stretching, given those before, float64 (pairs,)."""
        rotated = 2 * len(plain)

        def pair(turns: float) -> float:
            """The number of the pair that makes so many turns in the original context; not whole."""
            return rotated * math.log(self.original_context_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, rotated - 1)
        high = low + 0.001 if low == high else high
        slowed = np.clip((np.arange(len(plain)) - low) / (high - low), 0.0, 1.0)
        return np.asarray(slowed * plain / self.factor + (1 - slowed) * plain)


@dataclass(frozen=True)
class LongRope:
    """Each pair is slowed by a factor of its own: by one of `short_factors` in a text of up to
    `original_context_length` tokens, and by one of `long_factors`, at all of its positions, in a longer text.

    Source: Ding et al. 2024, LongRoPE; transformers chooses so, by the tokens of the text.
    """

    kind: ClassVar[str] = "longrope"
    short_factors: Annotated[tuple[float, ...], Numbers(0.0, 1e6, "of short texts; as many as pairs")]
    long_factors: Annotated[tuple[float, ...], Numbers(0.0, 1e6, "of long texts; as many as pairs")]
    original_context_length: OriginalContext
    attention_factor: Annotated[float, Number(0.0, 1e6, "cosines and sines are multiplied with it")]

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        if len(self.short_factors) == len(self.long_factors):
            return None
        return f"LongRoPE has {len(self.short_factors)} short and {len(self.long_factors)} long factors"

    def stretched(self, plain: np.ndarray, theta: float) -> np.ndarray:
        """The frequencies of short texts after stretching, given those before, float64 (pairs,)."""
        return np.asarray(plain / np.array(self.short_factors))

    def stretched_long(self, plain: np.ndarray) -> np.ndarray:
        """The same of long texts."""
        return np.asarray(plain / np.array(self.long_factors))


@dataclass(frozen=True)
class Dynamic:
    """The frequencies stay within the context; beyond it they would change with every token, cached keys' too, which
    nothing here computes: the context cannot be exceeded.

    Source: transformers, "dynamic".
    """

    kind: ClassVar[str] = "dynamic"
    attention_factor: ClassVar[float] = 1.0
    factor: Factor

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        return None

    def stretched(self, plain: np.ndarray, theta: float) -> np.ndarray:
        """The frequencies within the context, float64 (pairs,)."""
        return plain


@dataclass(frozen=True)
class Proportional:
    """The first `turning` pairs turn, slowed by `factor`; the others stay as they are."""

    kind: ClassVar[str] = "proportional"
    attention_factor: ClassVar[float] = 1.0
    turning: Annotated[int, Integer(1, 1 << 12, "pairs that turn")]
    factor: Factor

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        return None

    def stretched(self, plain: np.ndarray, theta: float) -> np.ndarray:
        """The frequencies after stretching, given those before, float64 (pairs,)."""
        return np.where(np.arange(len(plain)) < self.turning, plain / self.factor, 0.0)


Scaling = Linear | Llama3 | Yarn | LongRope | Dynamic | Proportional
"""Every way to stretch a context."""


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: pairs of numbers of a head turn by an angle proportional to the position."""

    kind: ClassVar[str] = "rotary"
    theta: Annotated[
        float, Number(1e-6, 1e18, "base of the frequencies: pair i of n turns by position * theta^(-i / n)")
    ]
    layout: Annotated[str, Word(LAYOUTS, "`half`: number i is paired with i + rotated / 2; `pairs`: 2i with 2i + 1")]
    rotated: Annotated[int, Integer(2, 1 << 13, "the first so many numbers of a head turn; even, at most head_dim")]
    scaling: Annotated[Scaling | None, Part("how the frequencies were changed for a longer context")]

    def problem(self) -> str | None:
        """What contradicts itself, if anything."""
        if self.rotated % 2:
            return f"RoPE rotates pairs, and the number of a head's numbers that turn, {self.rotated}, is odd"
        if isinstance(self.scaling, LongRope) and 2 * len(self.scaling.short_factors) != self.rotated:
            return f"RoPE has {len(self.scaling.short_factors)} factors for {self.rotated // 2} pairs"
        if isinstance(self.scaling, Yarn) and self.theta <= 1:
            return f"YaRN needs a base above 1, not {self.theta:g}"
        return None

    def rotation(self) -> Rotation:
        """As an operation needs it."""
        scale = 1.0 if self.scaling is None else self.scaling.attention_factor
        rotation = Rotation(tuple(frequencies(self).tolist()), self.layout, scale)
        if not isinstance(self.scaling, LongRope):
            return rotation
        long = tuple(self.scaling.stretched_long(plain_frequencies(self)).tolist())
        return replace(rotation, long=long, boundary=self.scaling.original_context_length)


def frequencies(rope: Rope) -> np.ndarray:
    """Angles per position of the rotated pairs, context stretching included.

    Args:
        rope: Base and scaling.

    Returns:
        float64 (rotated / 2,), radians per position; pair i is (i, i + rotated / 2) or (2 i, 2 i + 1) by the layout.

    Source: Su et al. 2021, section 3.2.2.
    """
    plain = plain_frequencies(rope)
    return plain if rope.scaling is None else rope.scaling.stretched(plain, rope.theta)


def plain_frequencies(rope: Rope) -> np.ndarray:
    """The same before any context was stretched."""
    found: np.ndarray = rope.theta ** (-np.arange(0, rope.rotated, 2, dtype=np.float64) / rope.rotated)
    return found
