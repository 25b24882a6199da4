"""The module that is trained, from the plan of a conversion: which tensors get which quantizer, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from ggq.convert.calibrate.calibrator import read_whole
from ggq.convert.plan.plan import Plan, TensorPlan
from ggq.errors import UnsupportedError
from ggq.quant.floats import from_float32, to_float32
from ggq.quant.matrix import QuantizedMatrix
from ggq.train.exact import exact, through_source
from ggq.train.program import ProgramModule
from ggq.train.quantize.fake import FakeQuantizer, quantizer_of
from ggq.train.quantize.inputs import InputRounding
from ggq.train.quantize.start import near_codes, wishes_of
from ggq.train.quantize.weight import TrainedWeight

Starts = Mapping[str, QuantizedMatrix]
"""Codes to begin from, by role."""


def teacher_of(plan: Plan) -> ProgramModule:
    """The model in full precision, without gradients."""
    weights = {}
    for tensor in plan.tensors:
        weights[tensor.role] = TrainedWeight(numbers_of(plan, tensor), tensor.scheme)
    module = ProgramModule(plan.program, weights)
    module.requires_grad_(False)
    return module


def student_of(
    plan: Plan,
    learned: bool,
    method: str | None = None,
    starts: Starts | None = None,
    rank: int = 0,
    rounding: InputRounding | None = None,
) -> ProgramModule:
    """The model with fake-quantized matrices.

    Args:
        plan: Which scheme each tensor gets.
        learned: Whether steps are parameters (LSQ), else they follow the weights (QAT).
        method: What chooses the grid, or where it begins; None for each scheme's default.
        starts: Codes to begin from, instead of the method's: their grids, and weights near enough to have these codes.
            A grid that follows weights does so by least squares then.
        rank: Of corrections; 0 for none.
        rounding: Of inputs.

    Raises:
        UnsupportedError: A model without logits.
    """
    if "logits" not in plan.program.outputs:
        raise UnsupportedError("the model makes vectors of texts and gives no logits, which training needs")
    starts, weights = starts or {}, {}
    for tensor in plan.tensors:
        numbers, settle = numbers_of(plan, tensor), None
        quantizer: FakeQuantizer | None = None
        if tensor.scheme.kind == "float":
            settle = partial(_settled, plan, tensor) if exact(tensor.expression) else None
        else:
            start = starts.get(tensor.role)
            if start is not None:
                numbers = near_codes(numbers.reshape(start.shape), start).reshape(tensor.shape)
            wished = None if start is None else wishes_of(start)
            quantizer = quantizer_of(numbers, tensor.scheme, learned, method, wished)
        weight = TrainedWeight(numbers, tensor.scheme, quantizer, rank, settle)
        if tensor.scheme.kind == "float" and settle is None:
            weight.numbers.requires_grad_(False)  # the checkpoint could not hold what it would become
        weights[tensor.role] = weight
    return ProgramModule(plan.program, weights, rounding)


def numbers_of(plan: Plan, tensor: TensorPlan) -> np.ndarray:
    """A tensor of the checkpoint, float32 in its shape."""
    return np.asarray(read_whole(plan.checkpoint, tensor.expression)).reshape(tensor.shape)


def _settled(plan: Plan, tensor: TensorPlan, numbers: np.ndarray) -> np.ndarray:
    """Numbers as they come back from the file of the checkpoint that will hold them."""
    kind = tensor.scheme.value
    found = through_source(tensor.expression, numbers, plan.checkpoint.shape)
    return to_float32(from_float32(found, kind), kind).reshape(numbers.shape)
