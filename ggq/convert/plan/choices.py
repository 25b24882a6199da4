"""What a caller may ask of a conversion's schemes and methods, as a recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from ggq.convert.mix.candidates import MEASURED_WITH, able
from ggq.convert.plan.recipe import Recipe, check_activations, make_recipe, parse_rules
from ggq.convert.plan.recipe_file import read_recipe
from ggq.convert.plan.target import Target, parse_target
from ggq.errors import UsageError
from ggq.quant import parse_scheme

DEFAULT_SCHEME = "q4-g32"
"""Of the body where the scheme of the embedding is named and no other."""

PRESETS = {"small": 3.3, "balanced": 4.6, "high": 6.6}
"""Bits per weight of what one word asks for: mixes, as no single scheme does as well at any size (NOTES.md)."""

DEFAULT_PRESET = "balanced"

CALIBRATED_WITH = "gptq"
"""The method of a preset where there is a text; MEASURED_WITH is that of the others."""


class Choices(TypedDict, total=False):
    """Keyword arguments that choose schemes and methods; None counts as left out.

    Args:
        scheme: Of the body's matrices, such as "q4-g32".
        method: Name of a method; by default the one that fits each scheme.
        embedding: Scheme of the embedding and the output; by default the body's, with at least 6 bits.
        keep: "REGEX=SCHEME" each: matrices whose names match get that scheme; the first that matches decides.
        activations: How inputs are rounded to int8 when they are: "group" (a scale for some columns of a token, the
            default), "token" (for all of them) or "static" (one for a matrix, from calibration).
        recipe: A recipe file (see `ggq.convert.plan.recipe_file.read_recipe`) instead of the others; `keep` comes
            before its rules.
        target_bpw: Bits per weight of all matrices, embedding, scales and padding included: the schemes are chosen so
            that the result has at most so many and differs least from the original. It takes `method` and `keep`.
        target_size: The same for the bytes of the file, such as "3GiB".
        preset: A key of PRESETS, a target and a method; "balanced" where none of this is given.
    """

    scheme: str | None
    method: str | None
    embedding: str | None
    keep: Sequence[str] | None
    activations: str | None
    recipe: str | os.PathLike[str] | None
    target_bpw: float | None
    target_size: str | int | None
    preset: str | None


@dataclass(frozen=True)
class Wish:
    """What was asked for.

    Args:
        recipe: The schemes; with a target, only its rules count.
        target: The budget to solve for, if any.
        method: Of what a target is solved for.
    """

    recipe: Recipe
    target: Target | None = None
    method: str = ""


def read_choices(choices: Choices, calibrated: bool = False) -> Wish:
    """What options ask for.

    Args:
        choices: The options.
        calibrated: Whether there will be statistics of inputs.

    Raises:
        GGQError: One does not exist, contradicts another or cannot be used.
    """
    check_choices(choices)
    keep = choices.get("keep") or ()
    target = parse_target(choices.get("target_bpw"), choices.get("target_size"))
    preset, standard = choices.get("preset"), MEASURED_WITH
    activations = check_activations(choices.get("activations") or "group")
    if preset is None and target is None and not any(choices.get(name) for name in ("scheme", "embedding", "recipe")):
        preset = DEFAULT_PRESET
    if preset is not None:
        if preset not in PRESETS:
            raise UsageError(f"unknown preset {preset!r}; allowed are {', '.join(PRESETS)}")
        target, standard = Target(bits_per_weight=PRESETS[preset]), CALIBRATED_WITH if calibrated else MEASURED_WITH
    if target is not None:
        method = choices.get("method") or standard
        floats = parse_scheme("f32")  # takes part in nothing: a target gives every matrix a scheme of its own
        rules = (replace(rule, method=rule.method or able(method, rule.scheme)) for rule in parse_rules(keep))
        return Wish(Recipe(floats, floats, tuple(rules), activations=activations), target, method)
    file = choices.get("recipe")
    if file is None:
        scheme = choices.get("scheme") or DEFAULT_SCHEME
        recipe = make_recipe(scheme, choices.get("method"), choices.get("embedding"), keep)
        return Wish(replace(recipe, activations=activations))
    recipe = read_recipe(file)
    return Wish(replace(recipe, rules=(*parse_rules(keep), *recipe.rules)))


def check_choices(choices: Mapping[str, object]) -> None:
    """Refuse options that do not exist or exclude each other."""
    for name in choices:
        if name not in Choices.__annotations__:
            raise UsageError(f"there is no option {name!r}; there are {', '.join(Choices.__annotations__)}")
    given = [name for name in Choices.__annotations__ if choices.get(name) is not None]
    for name, others in EXCLUDED.items():
        found = next((other for other in others if other in given), None)
        if name in given and found is not None:
            shown = [f"--{each.replace('_', '-')}" for each in (name, found)]
            raise UsageError(f"{shown[0]} and {shown[1]} exclude each other", fix=_FIXES.get(name))


EXCLUDED = {
    "recipe": ("scheme", "method", "embedding", "activations", "target_bpw", "target_size", "preset"),
    "target_bpw": ("scheme", "embedding", "target_size", "preset"),
    "target_size": ("scheme", "embedding", "preset"),
    "preset": ("scheme", "embedding"),
}
"""Options that cannot be given beside another."""

_FIXES = {
    "recipe": "write it into the recipe file",
    "target_bpw": "with a target, --keep REGEX=SCHEME says what a matrix must have",
    "target_size": "with a target, --keep REGEX=SCHEME says what a matrix must have",
    "preset": "with a preset, --keep REGEX=SCHEME says what a matrix must have",
}
