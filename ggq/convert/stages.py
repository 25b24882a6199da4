"""Stages of a conversion: the tensors of a layer, with what calibration and transforms add to their plans."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ggq.convert.calibration import Calibration, layer_statistics, requires, uses_of
from ggq.convert.plan import Plan, TensorPlan
from ggq.models.decoder import build_tape

if TYPE_CHECKING:
    from ggq.quant.inputs import InputStatistics

FALLBACK = "mse"
"""The method of a tensor whose statistics cannot be used: the best of those that need none."""

Notes = Mapping[str, str | float]
"""Attributes that are kept with a tensor."""


@dataclass(frozen=True, eq=False)
class Work:
    """What is known of a tensor when its turn comes, besides its plan.

    Args:
        method: What quantizes it in the end, "" for floats.
        inputs: Statistics of its inputs, or None.
        notes: Attributes that say what was done.
    """

    method: str
    inputs: InputStatistics | None = None
    notes: Notes = field(default_factory=dict)


Stage = tuple[list[TensorPlan], Mapping[str, Work]]
"""Tensors in the order in which they are written, and what is known of each by its name."""


def stages(
    plan: Plan, calibration: Calibration | None, finished: Set[str], told: Callable[[str], None] | None = None
) -> Generator[Stage, None, None]:
    """The tensors of a plan, all of them at once without calibration, else layer by layer.

    An embedding that is the output matrix too comes last then, when its inputs as such are known.

    Args:
        plan: What to write.
        calibration: Where statistics come from, or None.
        finished: Names of tensors that need no work any more.
        told: Called with what is being done.
    """
    if calibration is None:
        yield list(plan.tensors), {tensor.name: Work(tensor.method) for tensor in plan.tensors}
        return
    from ggq.engine.windows import roles, segments

    places = {
        role: i for i, part in enumerate(segments(build_tape(plan.model))) for op in part.ops for role in roles(op)
    }
    with layer_statistics(plan, calibration, told) as layers:
        i = 0
        for found in layers:  # no enumerate: it would hold on to a layer's grams while the next one's are made
            tensors = [tensor for tensor in plan.tensors if places[tensor.role] == i]
            works = {t.name: work(t, found.get(t.role)) for t in tensors if t.name not in finished}
            del found
            yield tensors, works
            works.clear()
            i += 1


def work(tensor: TensorPlan, inputs: InputStatistics | None) -> Work:
    """What a tensor's statistics allow: its own method, or one without data where they cannot be used."""
    if not uses_of(tensor):
        return Work(tensor.method)
    trouble = "it takes part in no product" if inputs is None else inputs.trouble
    if not trouble:
        return Work(tensor.method, inputs)
    return Work(FALLBACK if requires(tensor) else tensor.method, None, {"fallback": f"no statistics: {trouble}"})
