"""Mixed precision: the recipe of least divergence within a budget."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from ggq.convert.calibrate.calibration_text import read_windows
from ggq.convert.mix.budget import Option, solve
from ggq.convert.mix.candidates import Candidate, able, candidates, searched
from ggq.convert.mix.sensitivity import CONTEXT, WINDOWS, random_windows, sensitivities
from ggq.convert.plan.pattern import Pattern
from ggq.convert.plan.plan import Plan, TensorPlan, with_recipe
from ggq.convert.plan.recipe import EMBEDDING_ROLES, Recipe, Rule, fit_group
from ggq.convert.plan.target import Target
from ggq.convert.pool import start_pool
from ggq.convert.source.assets import TOKENIZER
from ggq.convert.write.stacked import FilePlan, StackPlan, members_of
from ggq.errors import UsageError
from ggq.format.scheme import Scheme
from ggq.format.stacks import name_of_stack, place_in_stack
from ggq.quant import parse_scheme

LADDER = tuple(
    parse_scheme(name)
    for name in (
        "q2-g64-s4",
        "q2-g32-s4",
        "c3-g64-s6",
        "c3-g32-s6",
        "c4-g64-s6",
        "c4-g32-s6",
        "q5-g64-s6",
        "q5-g32-s6",
        "q6-g64-s6",
        "q6-g32-s6",
        "q8-g64-s8",
        "q8-g32-s8",
    )
)
"""Schemes to choose from, beside the checkpoint's own float type: those a mix gains from (docs/notes/mixes.md)."""

F16, BF16 = parse_scheme("f16"), parse_scheme("bf16")

ANY = parse_scheme("q4-g32")
"""Stands for the schemes that are not chosen yet."""


@dataclass(frozen=True)
class Mix:
    """A solved budget.

    Args:
        recipe: Gives each matrix its scheme, by name.
        divergence: The KL divergence from full precision that was predicted, in nats per token, rounding of activations
            aside; docs/notes/mixes.md says how good it is as an absolute number.
    """

    recipe: Recipe
    divergence: float


def rehearsal(planned: Plan, method: str) -> Plan:
    """The plan with some scheme and the method that a mix will have, for what can be refused before it is solved for.

    Args:
        planned, method: See `mix`.

    Raises:
        ConvertError: No such method.
    """
    body = ANY
    recipe = replace(
        planned.recipe, scheme=body, embedding=body, method=able(method, body), embedding_method=able(method, body)
    )
    return with_recipe(planned, recipe)


def solve_target(
    planned: Plan,
    target: Target,
    method: str,
    text: str | os.PathLike[str] | None = None,
    report: Callable[[str], None] | None = None,
) -> Plan:
    """The plan with the schemes of least predicted divergence within a target.

    Args:
        planned: See `mix`.
        target: What the result may have.
        method: See `mix`.
        text: What to measure sensitivity on; random tokens where there is none.
        report: Called with what is being done.

    Raises:
        UsageError: The target is too small.
        GGQError: The text cannot be used.
    """
    return solve_targets(planned, [target], method, text, report)[0]


def solve_targets(
    planned: Plan,
    targets: Sequence[Target],
    method: str,
    text: str | os.PathLike[str] | None = None,
    report: Callable[[str], None] | None = None,
) -> list[Plan]:
    """The same for several targets, of which each matrix is measured once.

    Args, Raises: See `solve_target`.
    """
    model, tokens = planned.model, planned.tokens
    if text is None:
        windows = random_windows(model.vocabulary_size, model.context_length, tokens.bos)
    else:
        context = min(CONTEXT, model.context_length)
        windows = read_windows(text, planned.assets[TOKENIZER], tokens, context, WINDOWS * context).windows
    sensitivity = sensitivities(planned.checkpoint, planned.expressions, planned.program, windows, report)
    budgets = [target.budget(planned) for target in targets]
    solved = mixes(planned, budgets, method, sensitivity, report=report)
    return [with_recipe(planned, each.recipe, each.divergence) for each in solved]


def mix(
    planned: Plan,
    budget: int,
    method: str,
    sensitivity: Mapping[str, NDArray[np.float64]],
    report: Callable[[str], None] | None = None,
) -> Mix:
    """Choose the scheme of each matrix so that the predicted divergence is least; see `mixes`."""
    return mixes(planned, [budget], method, sensitivity, report)[0]


def mixes(
    planned: Plan,
    budgets: Sequence[int],
    method: str,
    sensitivity: Mapping[str, NDArray[np.float64]],
    report: Callable[[str], None] | None = None,
) -> list[Mix]:
    """Choose the scheme of each matrix so that the predicted divergence is least, for each of some budgets.

    Args:
        planned: The checkpoint; matrices that rules of its recipe match keep what these say, all others are chosen.
        budgets: Bits of all matrices.
        method: Of the matrices that are chosen for, where it can fill the scheme.
        sensitivity: Of each matrix by role; see `ggq.convert.mix.sensitivity`.
        report: Called with what is being done.

    Raises:
        UsageError: The smallest schemes take more than the budget.
    """
    rules = planned.recipe.rules
    fixed = [tensor for tensor in planned.matrices if any(rule.pattern.search(tensor.name) for rule in rules)]
    held = {tensor.name for tensor in fixed}
    free = [tensor for tensor in planned.matrices if tensor.name not in held]
    if report is not None:
        report("measuring schemes")
    from ggq_kernels.run.cores import physical_cores

    compiled = searched(planned.weights)
    with start_pool(physical_cores()) as pool:
        ladders = list(
            pool.map(
                lambda t: candidates(planned.checkpoint, t, ladder(t), sensitivity[t.role], compiled=compiled), free
            )
        )
    taken = sum(8 * tensor.bytes for tensor in fixed)
    units, together = _units(free, ladders)
    return [_mix_of(planned, method, units, together, budget, taken) for budget in budgets]


def _units(
    tensors: Sequence[TensorPlan], ladders: Sequence[Sequence[Candidate]]
) -> tuple[list[FilePlan], list[list[Candidate]]]:
    """What is chosen for together, and its candidates: the experts of a layer are one tensor of one scheme."""
    units: dict[str, tuple[list[TensorPlan], list[Candidate]]] = {}
    for tensor, mine in zip(tensors, ladders, strict=True):
        place = place_in_stack(tensor.role)
        members, sums = units.setdefault(tensor.role if place is None else place[0], ([], []))
        known = {each.scheme: each.option for each in sums}
        if members and known.keys() != {each.scheme for each in mine}:  # of another type than the others
            units[tensor.role] = [tensor], list(mine)
            continue
        members.append(tensor)
        before = [known.get(each.scheme, Option(0, 0.0)) for each in mine]
        sums[:] = [
            Candidate(each.scheme, Option(each.option.cost + sum_.cost, each.option.loss + sum_.loss))
            for each, sum_ in zip(mine, before)
        ]
    found = [
        StackPlan(name_of_stack(members[0].name, role), role, tuple(members)) if len(members) > 1 else members[0]
        for role, (members, _) in units.items()
    ]
    return found, [sums for _, sums in units.values()]


def _mix_of(
    planned: Plan,
    method: str,
    free: Sequence[FilePlan],
    ladders: Sequence[Sequence[Candidate]],
    budget: int,
    taken: int,
) -> Mix:
    """The mix for a budget, of which fixed matrices take so many bits."""
    left = budget - taken
    options = [[candidate.option for candidate in each] for each in ladders]
    chosen = solve(options, left)
    if chosen is None:
        least = sum(min(option.cost for option in each) for each in options) + budget - left
        raise UsageError(
            f"a target of {budget / planned.weights:.3f} bits per weight cannot be reached: the least possible is "
            f"{least / planned.weights:.3f}",
            fix="raise the target",
        )
    schemes = {tensor.name: each[k].scheme for tensor, each, k in zip(free, ladders, chosen)}
    return Mix(_recipe(planned.recipe, method, free, schemes), sum(each[k].loss for each, k in zip(options, chosen)))


def ladder(tensor: TensorPlan) -> list[Scheme]:
    """The schemes that a matrix may have: those of LADDER with groups no larger than its rows, and 16-bit floats."""
    schemes = [fit_group(scheme, tensor.shape[-1]) for scheme in LADDER]
    return [*schemes, BF16 if tensor.source_dtype == "bf16" else F16]


def _recipe(base: Recipe, method: str, tensors: Sequence[FilePlan], schemes: Mapping[str, Scheme]) -> Recipe:
    """A recipe that gives these matrices these schemes: the most common one for the body, rules for what differs."""

    outer = [tensor for tensor in tensors if tensor.role in EMBEDDING_ROLES]
    body = _commonest([tensor for tensor in tensors if tensor not in outer], schemes) or base.scheme
    embedding = _commonest(outer, schemes) or base.embedding
    places: dict[tuple[str, Scheme], list[FilePlan]] = {}
    for tensor in tensors:
        scheme = schemes[tensor.name]
        if scheme != (embedding if tensor in outer else body):
            places.setdefault((_LAYER.sub(".N.", tensor.name, count=1), scheme), []).append(tensor)
    rules = [
        Rule(Pattern(_pattern(group)), scheme, able(method, scheme), "mixed precision")
        for (_, scheme), group in places.items()
    ]
    return replace(
        base,
        scheme=body,
        embedding=embedding,
        rules=(*base.rules, *rules),
        method=able(method, body),
        embedding_method=able(method, embedding),
    )


def _commonest(tensors: Sequence[FilePlan], schemes: Mapping[str, Scheme]) -> Scheme | None:
    """The scheme that most weights have; of equals the first."""
    weights: dict[Scheme, int] = {}
    for tensor in tensors:
        weights[schemes[tensor.name]] = weights.get(schemes[tensor.name], 0) + prod(tensor.shape)
    return max(weights, key=weights.__getitem__, default=None)


_LAYER = re.compile(r"\.(\d+)\.")


def _pattern(group: Sequence[FilePlan]) -> str:
    """A regular expression for tensors whose names differ in the number of their layer only, and of their expert."""
    made = _layers_pattern([members_of(tensor)[0].name for tensor in group])
    stack = isinstance(group[0], StackPlan)
    return _EXPERT.sub(lambda found: f"{found[1]}[0-9]+{found[2]}", made, count=1) if stack else made


_EXPERT = re.compile(r"(experts\\\.)[0-9]+(\\\.)")


def _layers_pattern(names: Sequence[str]) -> str:
    """The same for names alone."""
    parts = [_LAYER.search(name) for name in names]
    first = parts[0]
    if first is None:
        return f"^{re.escape(names[0])}$"
    numbers = "|".join(part[1] for part in parts if part is not None)
    layers = f"({numbers})" if len(names) > 1 else numbers
    return f"^{re.escape(names[0][: first.start(1)])}{layers}{re.escape(names[0][first.end(1) :])}$"
