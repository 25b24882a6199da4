"""What a caller may ask of a generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from ggq.errors import UsageError

MAX_TOKENS = 256
"""Tokens to generate when nobody says."""


class Options(TypedDict, total=False):
    """Keyword arguments of every method that generates; one that is None or left out is as the model's own
    generation_config.json says, and without that as told here.

    Args:
        max_tokens: End after this many, by default 256 (the model's own is "max_new_tokens"); the end of the context
            comes first where it is nearer.
        temperature: 0, the most likely token, unless the model or another argument here asks for chance, then 1.
        top_k, top_p, min_p, repetition_penalty, seed: See `ggq.generate.sampling.Sampling`.
        presence_penalty, frequency_penalty, logit_bias: See there too.
        logprobs: Give the logarithms of the probabilities of each token and of so many likeliest ones; none by default.
        json_schema: The answer is JSON that fits this schema, an object or JSON text; spaced as by `json.dumps`.
        regex: The answer matches this regular expression as a whole; the syntax is that of Rust's regex crate.
        lark: The answer is a word of this grammar, in llguidance's form of Lark. At most one of the three.
        stop: Strings before the first of which the text ends, special tokens among them too; none unless the model has
            "stop_strings".
    """

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    logprobs: int | None
    stop: Sequence[str] | None
    json_schema: Mapping[str, Any] | str | None
    regex: str | None
    lark: str | None


GRAMMARS = ("json_schema", "regex", "lark")
"""The options that say what an answer must match."""

SAMPLING = (
    *("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"),
    *("presence_penalty", "frequency_penalty", "logit_bias"),
)
"""The options that `Sampling` has too."""


def check_names(options: Mapping[str, object]) -> None:
    """Refuse an option that does not exist."""
    known = Options.__annotations__
    for name in options:
        if name not in known:
            raise UsageError(f"there is no option {name!r}; there are {', '.join(known)}")


def grammar_of(options: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Which of GRAMMARS is given, and its value; None without one.

    Raises:
        UsageError: There are several.
    """
    given = [(name, options[name]) for name in GRAMMARS if options.get(name) is not None]
    if len(given) > 1:
        raise UsageError(f"{given[0][0]} and {given[1][0]} cannot be combined")
    return given[0] if given else None


def default_limit(defaults: Mapping[str, object]) -> int:
    """The tokens to generate at most that a generation_config.json asks for; a value that cannot be used is absent."""
    value = defaults.get("max_new_tokens")
    return value if type(value) is int and value >= 1 else MAX_TOKENS


def default_stops(defaults: Mapping[str, object]) -> list[str]:
    """The stop strings of a generation_config.json, one or a list; a value that cannot be used is absent."""
    value = defaults.get("stop_strings")
    listed = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [text for text in listed if isinstance(text, str) and text]
