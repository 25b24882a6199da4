"""SmoothQuant: large inputs are divided and their columns multiplied, so that inputs can be rounded to 8 bits too."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.quant.methods.transforms.awq import normalized
from ggq.quant.methods.transforms.transform import Floats, SharedInputs, best_trial
from ggq.quant.reference import decode
from ggq.quant.stored import activation_group

STRENGTHS = np.arange(0, 11) / 10
"""Migration strengths that are tried."""

CLIPS = np.arange(20, 5, -1) / 20
"""Shares of the largest input that are tried as the end of a static range."""


class SmoothQuant:
    """Scales s = max|x|**a / max|w|**(1 - a) for the migration strength a that changes the products least when inputs
    and weights are rounded, found for each layer on sampled inputs.

    Source: SmoothQuant (Xiao et al. 2022, arXiv 2211.10438), equation 4; it takes one strength for a whole model.
    """

    name = "smoothquant"
    kind = "scale"
    uses = frozenset({"samples"})
    requires = True

    def find(self, shared: SharedInputs) -> NDArray[np.float32] | None:
        """The scale; None where none is better."""
        assert shared.inputs is not None
        largest = shared.alike(shared.inputs.absolute_maximum, largest=True)
        largest = np.where(largest > 0, np.maximum(largest, 1e-5), 0)
        weight = np.maximum(shared.magnitudes(), 1e-5)
        trials = (normalized(largest**strength / weight ** (1 - strength)) for strength in STRENGTHS)
        return best_trial(trials, lambda scale: rounded_error(shared, scale))


def rounded_error(shared: SharedInputs, scale: Floats | None) -> float:
    """What rounding of inputs and weights does to the products of the samples, as a share of them."""
    inputs, total = shared.inputs, 0.0
    assert inputs is not None and inputs.samples is not None
    x = inputs.samples if scale is None else inputs.samples / scale
    largest = inputs.absolute_maximum if scale is None else inputs.absolute_maximum / scale
    for consumer, exact in zip(shared.consumers, shared.products, strict=True):
        weights = consumer.weights if scale is None else consumer.weights * scale
        rounded = decode(consumer.rounder.quantize(weights, consumer.scheme))
        group = activation_group(consumer.scheme) if shared.activations == "group" else shared.columns
        step = largest.max() / 127 if shared.activations == "static" else None
        error = round_inputs(x, group, step) @ rounded.T - exact
        total += float(np.square(error, dtype=np.float64).sum() / max(np.square(exact, dtype=np.float64).sum(), 1e-30))
    return total


def round_inputs(x: Floats, group: int, step: float | None = None) -> Floats:
    """Inputs (tokens, columns) rounded to int8, to multiples of a step or of each group's largest / 127."""
    tokens, columns = x.shape
    padded = np.zeros((tokens, -(-columns // group), group), np.float32)
    padded.reshape(tokens, -1)[:, :columns] = x
    if step is None:
        steps = np.maximum(np.abs(padded).max(axis=2, keepdims=True) / np.float32(127), np.float32(1e-30))
    else:
        steps = np.full((1, 1, 1), max(step, 1e-30), np.float32)
    rounded: Floats = np.clip(np.rint(padded / steps), -127, 127) * steps
    return rounded.reshape(tokens, -1)[:, :columns]


def static_step(shared: SharedInputs) -> float:
    """The step of a static range: the end of the range that changes the products of the samples least.

    Inputs are those that the matrices get, after any transform.
    """
    inputs = shared.inputs
    assert inputs is not None and inputs.samples is not None
    best, step = np.inf, 0.0
    for clip in CLIPS:
        trial = float(inputs.absolute_maximum.max()) * clip / 127
        moved = round_inputs(inputs.samples, shared.columns, trial)
        error = sum(
            float(np.square(moved @ consumer.weights.T - product, dtype=np.float64).sum())
            for consumer, product in zip(shared.consumers, shared.products, strict=True)
        )
        if error < best:
            best, step = error, trial
    return float(np.float32(step))
