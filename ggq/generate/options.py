"""What a caller may ask of a generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from ggq.errors import UsageError


class Options(TypedDict, total=False):
    """Keyword arguments of every method that generates; one that is None or left out is as the model's own
    generation_config.json says, and without that as told here.

    Args:
        max_tokens: End after this many, 256 unless told; the end of the context comes first where it is nearer.
        temperature: 0, the most likely token, unless the model or another argument here asks for chance, then 1.
        top_k, top_p, min_p, repetition_penalty, seed: See `ggq.generate.sampling.Sampling`.
        stop: Strings before the first of which the text ends; none.
    """

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: Sequence[str]


SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
"""The options that `Sampling` has too."""


def check_names(options: Mapping[str, object]) -> None:
    """Refuse an option that does not exist."""
    known = Options.__annotations__
    for name in options:
        if name not in known:
            raise UsageError(f"there is no option {name!r}; there are {', '.join(known)}")
