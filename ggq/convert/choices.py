"""What a caller may ask of a conversion's schemes and methods, as a recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from ggq.convert.recipe import Recipe, make_recipe, parse_rule
from ggq.convert.recipe_file import read_recipe
from ggq.errors import UsageError

DEFAULT_SCHEME = "q4-g32"
"""Of the body when nothing is said."""


class Choices(TypedDict, total=False):
    """Keyword arguments that choose schemes and methods; None counts as left out.

    Args:
        scheme: Of the body's matrices, such as "q4-g32".
        method: Name of a method; by default the one that fits each scheme.
        embedding: Scheme of the embedding and the output; by default the body's, with at least 6 bits.
        keep: "REGEX=SCHEME" each: matrices whose names match get that scheme; the first that matches decides.
        recipe: A recipe file (see `ggq.convert.recipe_file.read_recipe`) instead of the first three; `keep` comes
            before its rules.
    """

    scheme: str | None
    method: str | None
    embedding: str | None
    keep: Sequence[str] | None
    recipe: str | os.PathLike[str] | None


def choose_recipe(choices: Choices) -> Recipe:
    """The recipe that was asked for.

    Raises:
        GGQError: An option does not exist, contradicts another or cannot be used.
    """
    check_choices(choices)
    keep = choices.get("keep") or ()
    file = choices.get("recipe")
    if file is None:
        scheme = choices.get("scheme") or DEFAULT_SCHEME
        return make_recipe(scheme, choices.get("method"), choices.get("embedding"), keep)
    recipe = read_recipe(file)
    return replace(recipe, rules=(*(parse_rule(text) for text in keep), *recipe.rules))


def check_choices(choices: Mapping[str, object]) -> None:
    """Refuse options that do not exist or exclude each other."""
    for name in choices:
        if name not in Choices.__annotations__:
            raise UsageError(f"there is no option {name!r}; there are {', '.join(Choices.__annotations__)}")
    given = [name for name in ("scheme", "method", "embedding") if choices.get(name) is not None]
    if choices.get("recipe") is not None and given:
        raise UsageError(f"--recipe and --{given[0]} exclude each other", fix=f"write {given[0]} into the recipe file")
