"""What a caller may ask of a conversion's schemes and methods, as a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ggq.convert.mix.candidates import MEASURED_WITH, able
from ggq.convert.options import PRESETS, PlanOptions
from ggq.convert.plan.recipe import F32, Recipe, make_recipe, parse_rules
from ggq.convert.plan.recipe_file import read_recipe
from ggq.convert.plan.target import Target, parse_target
from ggq.convert.source.packed.find import why_not
from ggq.convert.source.safetensors_header import SourceTensor
from ggq.errors import UnsupportedError, UsageError

DEFAULT_SCHEME = "q4-g32"
"""Of the body where the scheme of the embedding is named and no other."""

DEFAULT_PRESET = "balanced"

GENERIC_SCHEME = "q8-g32"
"""Of tensors without a model where none is named: nobody knows what they can bear."""

PACKED_SCHEME = "q8-g32"
"""Of the other matrices of a model some of whose are codes already, where nothing is asked for."""

VECTOR_SCHEME = "q8-g32"
"""Of a model that makes vectors of texts, where nothing is asked for."""

CALIBRATED_WITH = "gptq"
"""The method of a preset where there is a text; MEASURED_WITH is that of the others."""


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


def read_choices(options: PlanOptions) -> Wish:
    """What options ask for.

    Raises:
        GGQError: One contradicts another or cannot be used.
    """
    given = options.given()
    check_exclusions(given)
    target, standard, preset = parse_target(options.target_bpw, options.target_size), MEASURED_WITH, options.preset
    if options.generic and options.scheme is None and options.recipe is None:
        return Wish(make_recipe(GENERIC_SCHEME, options.method, None, options.keep or ()))
    if preset is None and target is None and not {"scheme", "embedding", "recipe"} & set(given):
        preset = DEFAULT_PRESET
    if preset is not None:
        calibrated = options.calibration is not None or options.statistics is not None
        target, standard = Target(bits_per_weight=PRESETS[preset]), CALIBRATED_WITH if calibrated else MEASURED_WITH
    keep, activations = options.keep or (), options.activations or "group"
    if target is not None:
        method = options.method or standard
        rules = (replace(rule, method=rule.method or able(method, rule.scheme)) for rule in parse_rules(keep))
        # The scheme takes part in nothing: a target gives every matrix one of its own.
        return Wish(Recipe(F32, F32, tuple(rules), activations=activations), target, method)
    if options.recipe is None:
        scheme = options.scheme or DEFAULT_SCHEME
        return Wish(make_recipe(scheme, options.method, options.embedding, keep, activations))
    recipe = read_recipe(options.recipe)
    return Wish(replace(recipe, rules=(*parse_rules(keep), *recipe.rules)) if keep else recipe)


def keeping_packed(wish: Wish, options: PlanOptions, sources: Iterable[SourceTensor]) -> Wish:
    """What is done with matrices that are codes already where no scheme is asked for: they keep their numbers.

    Args:
        wish: What was asked for.
        options: All that was asked for.
        sources: The tensors of the checkpoint.

    Raises:
        UnsupportedError: No scheme keeps the numbers of one.
    """
    asked = {"scheme", "recipe", "target_bpw", "target_size", "preset"} & set(options.given())
    if asked:
        return wish
    for source in sources:
        if (reason := why_not(source.dtype)) is not None:
            raise UnsupportedError(
                f"no scheme keeps every number of a matrix of {source.dtype.lower()}: {reason}",
                path=source.file,
                where=f"tensor {source.name}",
                fix="--scheme q4-g32, or another, quantizes it anew",
            )
    scheme = options.embedding and DEFAULT_SCHEME or PACKED_SCHEME
    chosen = options.method, options.embedding, options.keep or (), options.activations or "group"
    return replace(wish, recipe=replace(make_recipe(scheme, *chosen), exact=True), target=None)


def without_target(wish: Wish, options: PlanOptions) -> Wish:
    """What is done where a target cannot be solved for, as the model gives no logits: one scheme, unless a target was
    asked for.

    Raises:
        UsageError: It was.
    """
    asked = next((name for name in ("target_bpw", "target_size", "preset") if name in options.given()), None)
    if asked is not None:
        raise UsageError(
            f"--{asked.replace('_', '-')} needs a model with logits, and this one makes vectors of texts",
            fix=f"name a scheme: --scheme {VECTOR_SCHEME}",
        )
    given = make_recipe(VECTOR_SCHEME, options.method, None, options.keep or (), options.activations or "group")
    return replace(wish, recipe=given, target=None)


def check_exclusions(given: Sequence[str]) -> None:
    """Refuse options that cannot be combined."""
    for name, others in EXCLUDED.items():
        found = next((other for other in others if other in given), None)
        if name in given and found is not None:
            shown = [f"--{each.replace('_', '-')}" for each in (name, found)]
            raise UsageError(f"{shown[0]} and {shown[1]} cannot be combined", fix=_FIXES.get(name))


EXCLUDED = {
    "generic": (
        "lora",
        "calibration",
        "statistics",
        "calibration_tokens",
        "calibration_context",
        "activations",
        "embedding",
        "target_bpw",
        "target_size",
        "preset",
    ),
    "recipe": ("scheme", "method", "embedding", "activations", "target_bpw", "target_size", "preset"),
    "target_bpw": ("scheme", "embedding", "target_size", "preset"),
    "target_size": ("scheme", "embedding", "preset"),
    "preset": ("scheme", "embedding"),
}
"""Options that cannot be given beside another."""

_FIXES = {
    "generic": "without a model nobody knows the inputs of a matrix; --keep REGEX=SCHEME treats some otherwise",
    "recipe": "write it into the recipe file",
    "target_bpw": "with a target, --keep REGEX=SCHEME says what a matrix must have",
    "target_size": "with a target, --keep REGEX=SCHEME says what a matrix must have",
    "preset": "with a preset, --keep REGEX=SCHEME says what a matrix must have",
}
