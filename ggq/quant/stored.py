"""A tensor as it is stored, with what is done to the inputs that meet it."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

import numpy as np

from ggq.errors import ModelError, UnsupportedError
from ggq.format.container import Container, StoredTensor
from ggq.format.scheme import ROW, Scheme
from ggq.quant.tensors import decode_tensor
from ggq.quant.transform import checked_order, transform_inputs, undo_transform

GROUP, TOKEN, STATIC = "group", "token", "static"
"""How inputs are rounded to int8: a scale for each group of columns, for each row, or a given one (M-11)."""


ACTIVATION_GROUPS = (128, 64, 32, 16)
"""Columns of an input that share an int8 scale."""


class StoredWeight(NamedTuple):
    """A tensor for an interpreter.

    Args:
        scheme: How it is stored.
        numbers: float32 in its shape, as stored: what multiplies transformed inputs.
        input_scale: float32 (columns,), or None.
        input_order: uint32 (columns,), or None.
        activations: GROUP, TOKEN or STATIC.
        activation_step: The step of STATIC.
    """

    scheme: Scheme
    numbers: np.ndarray
    input_scale: np.ndarray | None = None
    input_order: np.ndarray | None = None
    activations: str = GROUP
    activation_step: float = 0.0

    def transformed(self, x: np.ndarray) -> np.ndarray:
        """Inputs (..., columns) as they meet the stored numbers."""
        return transform_inputs(x, self.input_scale, self.input_order)

    def effective(self) -> np.ndarray:
        """The numbers that the tensor stands for, its transform undone."""
        return undo_transform(self.numbers, self.input_scale, self.input_order)


def read_stored(container: Container, entry: StoredTensor) -> StoredWeight:
    """A tensor of one or two dimensions, as an interpreter needs it.

    Raises:
        UnsupportedError: This version cannot decode its scheme.
        FormatError: An order of columns that points outside.
        ModelError: Its activations are none that M-11 allows.
    """
    if entry.scheme is None:
        raise undecodable(container, entry)
    segments = segments_of(container, entry)
    numbers = decode_tensor(entry.scheme, entry.shape, segments, where=entry.name, stored=True)
    scale, order = segments.get("input_scale"), segments.get("input_order")
    columns = entry.shape[-1]
    return StoredWeight(
        entry.scheme,
        numbers,
        None if scale is None else scale.view("<f4")[:columns],
        None if order is None else checked_order(order.view("<u4"), columns),
        *activation_form(container, entry),
    )


def activation_form(container: Container, entry: StoredTensor) -> tuple[str, float]:
    """How the inputs of a tensor are rounded to int8, and the step where that is given (M-11).

    Raises:
        ModelError: It is none that M-11 allows.
    """
    form, step = entry.attributes.get("activations", GROUP), entry.attributes.get("activation_step", 0.0)
    if "activations" in entry.attributes and form not in (TOKEN, STATIC):
        problem = f"activations are {form!r}; allowed are {TOKEN} and {STATIC} (M-11)"
        raise ModelError(problem, path=container.path, where=f"tensor {entry.name}")
    if form == STATIC and not (isinstance(step, float) and isfinite(step) and step > 0):
        problem = f"an activation step of {step!r}; allowed are positive numbers (M-11)"
        raise ModelError(problem, path=container.path, where=f"tensor {entry.name}")
    return str(form), float(step) if form == STATIC else 0.0


def decoded(container: Container, entry: StoredTensor) -> np.ndarray:
    """A tensor's numbers, float32 in its shape; an UnsupportedError when this version cannot decode it."""
    if entry.scheme is None:
        raise undecodable(container, entry)
    return np.asarray(decode_tensor(entry.scheme, entry.shape, segments_of(container, entry), where=entry.name))


def segments_of(container: Container, entry: StoredTensor) -> dict[str, np.ndarray]:
    """A copy of a tensor's bytes by role."""
    return {role: container.read_segment(entry.name, role) for role in entry.segments}


def undecodable(container: Container, entry: StoredTensor) -> UnsupportedError:
    """The refusal of a tensor whose scheme has no name here."""
    return UnsupportedError(
        "stored in a scheme that this version cannot decode", path=container.path, where=f"tensor {entry.name}"
    )


def activation_group(scheme: Scheme) -> int:
    """Columns of an activation row that share one int8 scale when they meet such a weight; 0 for float weights.

    It is the largest of ACTIVATION_GROUPS that the weight's own group is a multiple of, so that one multiplication
    serves both scales; 32 for a scale per row.
    """
    if scheme.kind == "float":
        return 0
    return 32 if scheme.group == ROW else next(size for size in ACTIVATION_GROUPS if scheme.group % size == 0)
