"""What each scheme would cost a matrix in bits and, by its error on some of the rows, in divergence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggq.convert.mix.budget import Option
from ggq.convert.plan.plan import TensorPlan
from ggq.convert.plan.recipe import EMBEDDING_ROLES
from ggq.format.scheme import TILE_ROWS, Scheme
from ggq.models.names import Source
from ggq.quant import choose_method, from_float32, to_float32
from ggq.quant.matrix import geometry
from ggq.quant.methods import fills, method_parts
from ggq.quant.methods.mse import Mse
from ggq.quant.reference import by_groups
from ggq.quant.search import quick
from ggq.quant.search.steps import diagonal_metric, quick_steps

SAMPLE_WEIGHTS = 1 << 15
"""Weights of a matrix, about, on which errors are measured: the error of a scheme varies little from row to row."""

MEASURED_WITH = Mse.name
"""The method that errors are measured with where it can fill a scheme. Others err in like proportion."""

SEARCHED_WEIGHTS = 1 << 20
"""Weights of a model from which on loading the compiled search, a tenth of a second, pays, and compiling it once."""
LOADED_WEIGHTS = 1 << 18
"""The same where the installed wheel carries it compiled."""


def searched(weights: int) -> bool:
    """Whether the search in a model of so many weights is compiled code's; its numbers are the same."""
    if not LOADED_WEIGHTS <= weights < SEARCHED_WEIGHTS:
        return weights >= SEARCHED_WEIGHTS
    from ggq_kernels.code import precompiled

    return precompiled.archive() is not None


def able(method: str, scheme: Scheme) -> str | None:
    """The method if it can fill the scheme, else MEASURED_WITH, which fills all codes but those with a transform; None
    for floats.

    Raises:
        ConvertError: No such method, or a scheme that neither fills.
    """
    method_parts(method)
    if scheme.kind == "float":
        return None
    return method if fills(scheme, method) else choose_method(scheme, MEASURED_WITH).name


LARGEST_LOSS = 1e3
"""Nats that a scheme loses at most; where it cannot hold the weights too, which is refused when they are converted."""

USUAL_OUTER = 30.0
"""The mix of pylm for this factor has 1.2 times the divergence of the one for measured sensitivity, at 4.2 bits."""


@dataclass(frozen=True)
class Candidate:
    """A scheme for a matrix, and as an option of a budget the bits of all its segments and the KL divergence that it
    is predicted to cause, in nats per token."""

    scheme: Scheme
    option: Option


def candidates(
    source: Source,
    tensor: TensorPlan,
    schemes: Sequence[Scheme],
    sensitivity: NDArray[np.float64],
    *,
    compiled: bool = False,
) -> list[Candidate]:
    """Measure schemes on a matrix.

    Args:
        source: Where its weights are read.
        tensor: A matrix.
        schemes: Any; the same one twice is measured once.
        sensitivity: float64 (columns,); see `ggq.convert.mix.sensitivity`. Numbers that are not finite, from weights or
            activations that are not, are replaced by what is usual.
        compiled: Whether compiled code does what it can do; it finds the same errors.
    """
    sample = sample_weights(source, tensor)
    if not np.isfinite(sensitivity).all():
        sensitivity = usual_sensitivity(sample, tensor.role)
    return [
        Candidate(
            scheme,
            Option(
                8 * geometry(scheme, tensor.shape).bytes,
                _loss(sensitivity, column_errors(sample, scheme, compiled=compiled)),
            ),
        )
        for scheme in dict.fromkeys(schemes)
    ]


@np.errstate(over="ignore", invalid="ignore")
def _loss(sensitivity: NDArray[np.float64], errors: NDArray[np.float64]) -> float:
    loss = float(sensitivity @ errors) / 2
    return min(loss, LARGEST_LOSS) if loss == loss else LARGEST_LOSS


def usual_sensitivity(weights: NDArray[np.float32], role: str) -> NDArray[np.float64]:
    """What errors do to a model of which nothing is known: as much in each matrix, relative to its size, and
    USUAL_OUTER times as much in the embedding and the output."""
    size = float(np.square(weights, dtype=np.float64).mean()) or 1.0
    share = USUAL_OUTER if role in EMBEDDING_ROLES else 1.0
    return np.full(weights.shape[-1], share / (size * weights.shape[-1]))


def sample_weights(source: Source, tensor: TensorPlan) -> NDArray[np.float32]:
    """Runs of rows at equal distances, of about SAMPLE_WEIGHTS weights in all; the whole of a small matrix.

    Returns:
        float32 (rows, columns), finite: what is not counts as zero, and is refused when it is converted.
    """
    columns = tensor.shape[-1]
    rows = int(np.prod(tensor.shape[:-1]))
    runs = max(1, SAMPLE_WEIGHTS // (columns * TILE_ROWS))
    if rows <= runs * TILE_ROWS:
        found = tensor.expression.rows(source, 0, rows)
    else:
        starts = [i * (rows - TILE_ROWS) // max(1, runs - 1) for i in range(runs)]
        found = np.concatenate([tensor.expression.rows(source, start, start + TILE_ROWS) for start in starts])
    return np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)


@np.errstate(over="ignore", invalid="ignore")
def column_errors(weights: NDArray[np.float32], scheme: Scheme, *, compiled: bool = False) -> NDArray[np.float64]:
    """The mean squared error of a scheme in each column.

    Args:
        weights: float32 (rows, columns).
        scheme: Any.
        compiled: As for `candidates`.

    Returns:
        float64 (columns,), infinite where weights are too large for the scheme.
    """
    if scheme.kind == "float":
        decoded = to_float32(from_float32(weights, scheme.value), scheme.value)
    else:
        method, x = Mse(compiled=compiled).prepare(weights, scheme), by_groups(weights, scheme)
        if compiled and quick.able(scheme, method.codebook):
            squares = np.zeros(x.shape[1:], np.float64)
            quick_steps(x, diagonal_metric(None, geometry(scheme, weights.shape)), scheme, method.codebook, squares)
            return np.nan_to_num(squares.reshape(-1)[: weights.shape[1]] / len(weights), nan=np.inf)
        grid = method.grid(weights, scheme)
        codes = grid.nearest(x.reshape(len(weights), -1))
        decoded = grid.values(codes)[:, : weights.shape[1]]
    found = np.square(weights - decoded, dtype=np.float64).mean(axis=0)
    return np.nan_to_num(found, nan=np.inf)
