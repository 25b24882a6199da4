"""How much memory calibration takes, and methods that use what it finds."""

from __future__ import annotations

from math import prod

from ggq.convert.calibrate.calibration import Calibration, inputs_of
from ggq.convert.calibrate.calibrator import CHUNK_TOKENS, MEMORY_BYTES, sample_count
from ggq.convert.calibrate.statistics import SharedInput, kept_of
from ggq.convert.plan.plan import Plan
from ggq.quant.methods import TRANSFORMS, block_weights
from ggq.tape.cut import Section, sections

FEEDBACK_BYTES = 24
"""For each product of two columns of GPTQ's largest matrix: two of float64 and two of float32 while its factor is made,
of which one is kept."""

BLOCK_BYTES = 24
"""For each weight of a block that a thread quantizes with large blocks: as read, targets, errors, codes, decoded."""


def calibration_bytes(plan: Plan, calibration: Calibration | None, workers: int) -> int:
    """Bytes of memory, about, that a conversion takes at most on top of one without calibration.

    Args:
        plan: The conversion.
        calibration: What it is calibrated on, or None.
        workers: Threads.
    """
    if calibration is None:
        return 0
    program = plan.program
    tokens = calibration.text.windows.size if calibration.text is not None else 0
    states = min(4 * tokens * plan.model.hidden_size, MEMORY_BYTES)
    samples = sample_count(tokens or (calibration.saved.origin.tokens if calibration.saved is not None else 1))
    most = 0
    for section, inputs in zip(sections(program), inputs_of(plan), strict=True):
        kept = sum(_kept(each, calibration, samples) for each in inputs)
        running = 0 if calibration.text is None else _running(plan, calibration, section, inputs)
        most = max(most, kept + max(running, _quantizing(plan, calibration, inputs, kept, workers)))
    return 2 * states + most


def _kept(each: SharedInput, calibration: Calibration, samples: int) -> int:
    """Statistics of an input."""
    rows = {"gram": each.columns, "samples": samples}
    return 4 * each.columns * (3 + sum(rows[name] for name in kept_of(each, calibration.wants)))


def _running(plan: Plan, calibration: Calibration, section: Section, inputs: list[SharedInput]) -> int:
    """A layer's weights as float32, what a chunk of tokens goes through, and the largest product of columns."""
    shapes = {tensor.role: tensor.shape for tensor in plan.tensors}
    ops = [op for op in section.ops if plan.program.logits not in op.writes()]  # which nobody reads
    read = {role for op in ops if not op.tables() for role in op.weights_read()}
    weights = sum(prod(shapes[role]) for role in read if role in shapes)
    buffers = CHUNK_TOKENS * sum(buffer.width for op in ops for buffer in op.writes())
    products = max((each.columns**2 for each in inputs if "gram" in kept_of(each, calibration.wants)), default=0)
    return 4 * (weights + buffers + products)


def _quantizing(plan: Plan, calibration: Calibration, inputs: list[SharedInput], kept: int, workers: int) -> int:
    """Statistics under a transform, GPTQ's factor, and the blocks of the threads."""
    tensors = {tensor.role: tensor for tensor in plan.tensors}
    transformed, feedback, block = 0, 0, 0
    for each in inputs:
        for tensor in (tensors[role] for role in each.roles):
            parts = tensor.method_name.split("+")
            if any(part in TRANSFORMS for part in parts):
                transformed = kept
            if "gptq" in parts:
                feedback = max(feedback, FEEDBACK_BYTES * each.columns**2)
            if tensor.method is not None:
                wanted = block_weights(tensor.method)
                block = max(block, BLOCK_BYTES * min(prod(tensor.shape), wanted))
    return transformed + feedback + block * workers
