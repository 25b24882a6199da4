"""How much the answers of a model suffer from errors in each of its matrices, from one pass forwards and backwards.

Small independent errors in the numbers of a matrix, of variance v[c] in column c, move the model's distribution of the
next token from p to q with, to second order, KL(p, q) = sum of v[c] * F[c] / 2, where F[c] is the trace of the column's
block of the Fisher information per token: the expected sum of the squared gradient of log p of tokens drawn from p
itself. So it takes no labels, and hardly any text: random tokens measure nearly the same, as what counts is how far an
error is carried on, and not what the text says (docs/notes/mixes.md).

Source: J. Martens, New insights and perspectives on the natural gradient method, JMLR 21 (2020), sections 5 and 9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.convert.calibrate.calibrator import LayerWeights
from ggq.format.stacks import place_in_stack
from ggq.models.names import Expression, Source
from ggq.tape.backward import BackwardRun
from ggq.tape.cut import Section, sections
from ggq.tape.program import Program
from ggq.tape.windows import Buffers, WindowRun

WINDOWS, CONTEXT = 4, 64
"""Windows of random tokens, and tokens of each."""

SEED = 20260101


def random_windows(vocabulary: int, context_length: int, first: int | None) -> NDArray[np.int32]:
    """Token ids drawn evenly from a vocabulary, behind the token that begins a text where there is one.

    Returns:
        int32 (WINDOWS, CONTEXT or the model's context where that is shorter), always the same.
    """
    generator = np.random.Generator(np.random.PCG64(SEED))
    windows: NDArray[np.int32] = generator.integers(
        vocabulary, size=(WINDOWS, min(CONTEXT, context_length)), dtype=np.int32
    )
    if first is not None:
        windows[:, 0] = first
    return windows


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # who uses the result sees what is not finite
def sensitivities(
    source: Source,
    tensors: Mapping[str, Expression],
    program: Program,
    windows: NDArray[np.int32],
    report: Callable[[str], None] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """The Fisher information of each matrix, per token, summed over the rows.

    Args:
        source: Where weights are read: one layer is in memory at a time, and is read twice.
        tensors: The model's tensors by role.
        program: The model.
        windows: int32 (windows, context), token ids.
        report: Called with what is being done before each layer.

    Returns:
        float64 (columns,) by role. Half of it, times the mean squared error of each column, is the KL divergence that
        the errors cause, in nats per token.
    """
    parts = sections(program)
    parts[-1] = replace(parts[-1], kept=frozenset({program.logits}))
    tokens = {int(token) for token in np.unique(windows)}
    states: list[Buffers] = [{}]  # by section

    def visit(section: Section, doing: str) -> WindowRun:
        if report is not None:
            report(f"{doing} {section.name or 'the outer layers'}")
        weights = LayerWeights(source, tensors, tokens, section)
        return WindowRun(windows.shape[1], weights.__getitem__)

    for section in parts[:-1]:
        states.append(visit(section, "running").run(section, windows, states[-1]))
    traces = Traces()
    slopes: Buffers = {}
    generator = np.random.Generator(np.random.PCG64(SEED))

    def meet(role: str, source: NDArray[Any], slope: NDArray[np.float32], rows: NDArray[np.intp] | None = None) -> None:
        shape = windows.shape
        if rows is not None:  # of an expert
            for window in np.unique(rows // shape[1]).tolist():
                mine = rows // shape[1] == window
                traces.add(window, role, source[mine], slope[mine])
            return
        for window, each in enumerate(zip(source.reshape(*shape, *source.shape[1:]), slope.reshape(*shape, -1))):
            traces.add(window, role, *each)

    for section in reversed(parts):
        run, state = visit(section, "measuring"), states.pop()
        if not slopes:
            logits = run.run(section, windows, state)[program.logits]
            for each in logits:  # the wide numbers of one window at a time
                each[...] = score(each, generator)
            slopes = {program.logits: logits}
        slopes = BackwardRun(run, meet).back(section, windows, state, slopes)
    return _with_unreached(program, {role: total / windows.size for role, total in traces.totals.items()})


def _with_unreached(program: Program, found: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The same with the experts that no token reached: as sensitive as the others of their kind in the layer are on
    average; not finite where none was reached."""
    stacks: dict[str, list[str]] = {}
    for op in program.ops:
        for role in op.weights_read():
            if place := place_in_stack(role):
                stacks.setdefault(place[0], []).append(role)
    for roles in stacks.values():
        known = [found[role] for role in roles if role in found]
        usual = np.mean(known, axis=0) if known else np.full(1, np.nan)
        found |= {role: usual for role in roles if role not in found}
    return found


def score(logits: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """The gradient of the log-probability of tokens drawn from the model's own distribution, row by row.

    Args:
        logits: float32 (..., vocabulary); used up.
        generator: Draws the tokens.
    """
    logits -= logits.max(axis=-1, keepdims=True)
    chances = np.exp(logits, out=logits)
    chances /= chances.sum(axis=-1, keepdims=True)
    below = np.cumsum(chances, axis=-1, dtype=np.float64)
    drawn = generator.random((*logits.shape[:-1], 1)) * below[..., -1:]
    token = np.minimum((below <= drawn).sum(axis=-1, keepdims=True), logits.shape[-1] - 1)
    result = np.negative(chances, out=chances)
    np.put_along_axis(result, token, np.take_along_axis(result, token, -1) + 1, -1)
    return result


class Traces:
    """Squares of the gradient of each matrix, summed over rows and windows, without the gradients themselves.

    The gradient is the sum over tokens of slope x source, so a column's sum of squares is the sum over pairs of tokens
    of (slope . slope) * source[c] * source[c], which takes tokens**2 numbers where the gradient takes rows * columns.
    A tied embedding has two parts: as an output, whose source and slope are remembered, and as a table.
    """

    def __init__(self) -> None:
        self.totals: dict[str, NDArray[np.float64]] = {}
        self._outputs: dict[tuple[int, str], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def add(self, window: int, role: str, source: NDArray[Any], slope: NDArray[np.float32]) -> None:
        """Count in what `ggq.tape.backward` met."""
        if source.ndim == 2:
            total = _pairs(source, slope @ slope.T, source)
            if role == "embedding.weight":
                self._outputs[window, role] = (source, slope)
        else:
            same = (source[:, None] == source).astype(np.float32)
            total = _pairs(slope, same, slope)
            if (window, role) in self._outputs:
                inputs, outer = self._outputs.pop((window, role))
                total += 2 * _pairs(inputs, outer[:, source.astype(np.intp)], slope)
        self.totals[role] = self.totals.get(role, 0.0) + total


def _pairs(left: NDArray[np.float32], middle: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """The diagonal of left.T @ middle @ right."""
    return np.einsum("tc,tc->c", left, middle @ right, dtype=np.float64)
