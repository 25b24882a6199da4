"""Where a number that is not finite came from: a pass that failed is computed again, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ggq.errors import GGQError, NotFiniteError
from ggq.tape.executor import Executor

CACHE = "keys or values do not fit into f16, or weights are damaged: load with cache='f32'; `ggq verify FILE` checks it"
WEIGHTS = "weights or scales are damaged, or too large: `ggq verify FILE` checks the file"


def check_finite(rows: np.ndarray) -> None:
    """Refuse logits that are not all finite.

    Args:
        rows: float32, any shape.

    Raises:
        NotFiniteError: The first one that is not.
    """
    finite = np.isfinite(rows)
    if not finite.all():
        raise NotFiniteError(refusal(float(rows[~finite][0])), fix=WEIGHTS)


def refusal(value: float) -> str:
    """What is said of a logit that is not finite."""
    return f"the model computed {value} where finite numbers are expected"


def located(error: NotFiniteError, executor: Executor, tokens: Sequence[int]) -> NotFiniteError:
    """The error with the operation that made the first such number, where that can be found.

    Args:
        error: What was raised.
        executor: Where it was.
        tokens: What the sequence held.
    """
    find = getattr(executor, "first_not_finite", None)
    try:
        found = None if find is None or not len(tokens) else find(tokens)
    except GGQError:  # the cache is full, or the file is gone: what was found stands
        return error
    if found is None:
        return error
    kind, label = found
    problem = f"{error.problem}, first in {kind} of {label}"
    return NotFiniteError(problem, path=error.path, fix=CACHE if kind.startswith("attention") else WEIGHTS)
