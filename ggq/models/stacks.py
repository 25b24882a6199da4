"""The layout of checkpoints in which all experts of a layer are in two tensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ggq.models.names import Expression, Matrix, Rows, Tensor

_EXPERT = re.compile(r"(?P<place>.*\.experts)\.(?P<number>[0-9]+)\.(?P<kind>gate|up|down)_proj\.weight")


def stacked(plain: Callable[[str, Any], Expression]) -> Callable[[str, Any], Expression]:
    """A family's expressions where each expert has tensors of its own, as they are where none has.

    `X.experts.3.gate_proj.weight` and `up_proj` are the upper and the lower half of matrix 3 of
    `X.experts.gate_up_proj`, `down_proj` is matrix 3 of `X.experts.down_proj`.
    """

    def expression(role: str, spec: Any) -> Expression:
        found = plain(role, spec)
        match = _EXPERT.fullmatch(found.name) if isinstance(found, Tensor) else None
        if match is None:
            return found
        kind, width = match["kind"], spec.layers[int(role.split(".")[1])].feed_forward.width
        name = f"{match['place']}.{'down' if kind == 'down' else 'gate_up'}_proj"
        mine, second = Matrix(Tensor(name), int(match["number"])), kind == "up"
        return mine if kind == "down" else Rows(mine, second * width, (second + 1) * width)

    return expression
