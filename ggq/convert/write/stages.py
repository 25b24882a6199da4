"""Stages of a conversion: the tensors of a layer, with what calibration and transforms add to their plans."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ggq.convert.calibrate.calibration import Calibration, layer_statistics, requires, uses_of
from ggq.convert.calibrate.transforms import Layer
from ggq.convert.plan.plan import Plan, TensorPlan
from ggq.format.stacks import place_in_stack
from ggq.quant.change import Change
from ggq.quant.inputs import InputStatistics
from ggq.quant.methods import METHODS, Calibrated, Chain, Method
from ggq.tape.cut import sections
from ggq.tape.folding import Site, sites

FALLBACK = "mse"
"""The method of a tensor whose statistics cannot be used: the best of those that need none."""

FEWEST_TOKENS = 32
"""Tokens that must have reached an expert: the statistics of fewer say more about these than about any others."""

Notes = Mapping[str, str | float]
"""Attributes that are kept with a tensor."""


@dataclass(frozen=True, eq=False)
class Work:
    """What is known of a tensor when its turn comes, besides its plan.

    Args:
        method: Name of what quantizes it in the end, "" for floats.
        rounding: The method that rounds, behind all transforms; None for floats.
        inputs: Statistics of its inputs, folded transforms included, or None.
        change: What folded transforms do to its weights.
        scale, order: What it keeps of transforms, if its scheme does; see `transforms.transform.Stored`.
        notes: Attributes that say what was done.
    """

    method: str
    rounding: Method | None = None
    inputs: InputStatistics | None = None
    change: Change = field(default_factory=Change)
    scale: NDArray[np.float32] | None = None
    order: NDArray[np.int64] | None = None
    notes: Notes = field(default_factory=dict)


Stage = tuple[list[TensorPlan], Mapping[str, Work]]
"""Tensors in the order in which they are written, and what is known of each by its name."""


def stages(
    plan: Plan, calibration: Calibration | None, finished: Set[str], report: Callable[[str], None] | None = None
) -> Generator[Stage, None, None]:
    """The tensors of a plan: all of them at once where each is quantized on its own, else layer by layer.

    An embedding that is the output matrix too comes last then, when its inputs as such are known.

    Args:
        plan: What to write.
        calibration: Where statistics come from, or None.
        finished: Names of the plan's tensors that need no work any more.
        report: Called with what is being done.
    """
    chained = any(isinstance(tensor.method, Chain) for tensor in plan.tensors)
    if calibration is None and not chained and plan.recipe.activations == "group":
        yield list(plan.tensors), {tensor.name: plain_work(tensor) for tensor in plan.tensors}
        return
    parts, places = sections(plan.program), sites(plan.program)
    home = {role: i for i, part in enumerate(parts) for op in part.ops for role in op.weights_read()}
    with layer_statistics(plan, calibration, report) as layers:
        i = 0
        for found in layers:  # no enumerate: it would hold on to a layer's grams while the next one's are made
            tensors = [tensor for tensor in plan.tensors if home[tensor.role] == i]
            works = {}
            if any(tensor.name not in finished for tensor in tensors):
                if report is not None and chained:
                    report(f"transforms of {parts[i].name or 'the outer layers'}")
                layer = Layer(plan.checkpoint, {t.role: t for t in tensors}, found, plan.recipe.activations)
                layer.run(places)
                works = {tensor.name: work(tensor, layer, plan.recipe.activations, places) for tensor in tensors}
                del layer
            del found
            yield tensors, works
            works.clear()
            i += 1


def plain_work(tensor: TensorPlan) -> Work:
    """What is known of a tensor that is quantized on its own."""
    return Work(tensor.method_name, tensor.method, notes={} if tensor.taken is None else tensor.taken.notes)


def work(tensor: TensorPlan, layer: Layer, activations: str, places: list[Site]) -> Work:
    """What a layer's statistics and transforms make of a tensor's plan.

    A tensor whose statistics cannot be used is quantized without: by its own method if that can do without, else by
    FALLBACK; its notes say so.
    """
    role, method = tensor.role, tensor.method
    change = layer.changes.get(role, Change())
    notes: dict[str, str | float] = {**change.attributes()}
    if method is None:
        return Work("", change=change, notes=notes)
    name, rounding = method.name, method.rounding if isinstance(method, Chain) else method
    statistics = layer.statistics.get(role)
    trouble = _trouble(role, statistics)
    usable = uses_of(tensor, activations) and not trouble
    known = statistics is not None or (bool(layer.statistics) and bool(uses_of(tensor, activations)))
    if trouble and (known or requires(tensor, activations)):
        notes["fallback"] = f"no statistics: {trouble}"
        if isinstance(rounding, Calibrated) and rounding.requires:
            rounding = METHODS[FALLBACK]
        name = rounding.name
    if done := layer.done.get(role):
        notes["transforms"] = "+".join(done)
    if activations != "group" and any(role in site.consumers for site in places):
        notes["activations"] = "static" if role in layer.steps else "token"
        if role in layer.steps:
            notes["activation_step"] = layer.steps[role]
    inputs = layer.inputs.get(role, statistics) if usable else None  # an expert has no site, and no transforms
    scale, order = layer.kept.get(role, (None, None))
    return Work(name, rounding, inputs, change, scale, order, notes)


def _trouble(role: str, statistics: InputStatistics | None) -> str:
    """Why the statistics of a matrix cannot be used; "" where they can."""
    if place_in_stack(role) is not None:
        count = 0 if statistics is None else statistics.count
        if count < FEWEST_TOKENS:
            return f"reached by {count} tokens, fewer than {FEWEST_TOKENS}"
    return "it takes part in no product" if statistics is None else statistics.trouble
