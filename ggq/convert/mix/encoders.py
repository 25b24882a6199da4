"""What matrices of an encoder of texts are kept in more bits than the scheme says, unless a recipe file says all.

A rounding of values goes into every row that attends to them, and one of an intermediate matrix is not averaged over
anything: on all-MiniLM-L6-v2 the two make most of the error of a vector (docs/notes/encoders.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from ggq.convert.plan.pattern import Pattern
from ggq.convert.plan.recipe import F16, Recipe, Rule
from ggq.format.scheme_names import BITS, parse_scheme
from ggq.models.family import TensorSpec

VALUES, WIDENING = ".attention.v.weight", ".mlp.up.weight"
"""Ends of the roles of matrices that make values, and that begin a feed-forward."""

MORE = 2
"""Bits that both get besides the scheme's; with eight, values are f16."""

ORIGIN = "encoders"


def with_sensitive(recipe: Recipe, specs: Iterable[TensorSpec]) -> Recipe:
    """A recipe with rules for an encoder's sensitive matrices, behind those that it has.

    Args:
        recipe: Of one scheme for the body.
        specs: The model's tensors.
    """
    scheme = recipe.scheme
    if scheme.kind == "float":
        return recipe
    bits = next((bits for bits in BITS if bits >= scheme.bits + MORE), None)
    ends = (VALUES,) if bits is None else (VALUES, WIDENING)
    wider = F16 if bits is None else parse_scheme(f"q{bits}-g32")
    names = dict.fromkeys(_pattern(spec) for spec in specs if spec.role.endswith(ends))
    rules = [Rule(Pattern(name, ORIGIN), wider, None, ORIGIN) for name in names]
    return replace(recipe, rules=(*recipe.rules, *rules)) if rules else recipe


def _pattern(spec: TensorSpec) -> str:
    """A regular expression of a tensor's name, in every layer."""
    layer = next((part for part in spec.role.split(".") if part.isdecimal()), "")
    parts = ["[0-9]+" if part == layer else re.escape(part) for part in spec.name.split(".")]
    return rf"^{'[.]'.join(parts)}$"
