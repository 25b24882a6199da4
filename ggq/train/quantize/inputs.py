"""int8 inputs of matrices, rounded as the kernels round them, with straight-through gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ggq.errors import UnsupportedError, UsageError, one_of
from ggq.format.scheme import Scheme
from ggq.quant.stored import GROUP, STATIC, TOKEN, activation_group
from ggq.tape.ops.operation import Operation, Product
from ggq.tape.reference import TINY
from ggq.train.quantize.rounding import GivenNumbers

FORMS = (GROUP, TOKEN, STATIC)


class InputRounding(nn.Module):
    """Rounds inputs (..., columns) to int8: a scale for each group of columns, each token, or a matrix.

    Args:
        form: "group", "token" or "static"; static ranges are the largest magnitude that an observer saw.
    """

    def __init__(self, form: str) -> None:
        super().__init__()
        if form not in FORMS:
            raise UsageError(f"inputs can be rounded by {one_of(FORMS)}, not {form!r}")
        self.form, self.observing = form, False
        self.ranges: dict[str, float] = {}
        self.met: set[str] = set()

    def get_extra_state(self) -> dict[str, Any]:
        """Ranges, for a state that is saved."""
        return {"ranges": dict(self.ranges), "met": sorted(self.met)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Ranges from a state that was saved."""
        self.ranges, self.met = dict(state["ranges"]), set(state["met"])

    def product(self, op: Operation) -> Product:
        """The product that an operation is; one whose products have inputs inside it is refused."""
        found = op.whole_product()
        if found is None:
            raise UnsupportedError(f"int8 inputs of {op.name} cannot be trained; train without --activations")
        return found

    def forward(self, x: Any, scheme: Scheme, role: str) -> Any:
        """Inputs of the matrix with a role, as they meet it; those of float matrices as they are."""
        if scheme.kind == "float":
            return x
        self.met.add(role)
        if self.observing:
            self.ranges[role] = max(self.ranges.get(role, 0.0), float(x.detach().abs().max()))
        with torch.no_grad():
            numbers = self._rounded(x.detach().float(), scheme, role)
        return GivenNumbers.apply(x, numbers.to(x.dtype))

    def _rounded(self, x: Any, scheme: Scheme, role: str) -> Any:
        if self.form == STATIC:
            if not self.ranges.get(role):
                raise UsageError(f"no range of the inputs of {role} has been observed")
            largest = torch.full_like(x[..., :1], self.ranges[role])
            return round_inputs(x, x.shape[-1], largest[..., None])
        return round_inputs(x, x.shape[-1] if self.form == TOKEN else activation_group(scheme))


def round_inputs(x: Any, group: int, largest: Any = None) -> Any:
    """Rows rounded to int8 per group of columns; see `ggq.tape.reference.round_activations`, whose arithmetic it is.

    Args:
        x: float32 (..., columns).
        group: Columns that share a scale.
        largest: float32 (..., 1, 1), what 127 stands for; None for the largest magnitude of each group.
    """
    columns = x.shape[-1]
    groups = nn.functional.pad(x, (0, -columns % group)).reshape(*x.shape[:-1], -1, group)
    if largest is None:
        largest = groups.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest < float(TINY), torch.zeros_like(largest), 127 / largest.clamp(min=float(TINY)))
    codes = torch.clamp(torch.round(groups * inverse), -127, 127)
    return (codes * (largest / 127)).reshape(*x.shape[:-1], -1)[..., :columns]
