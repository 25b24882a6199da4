"""Fake quantization: a matrix that computes with the numbers that a file would hold, and lets gradients through."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ggq.errors import UsageError
from ggq.format.scheme import Scheme
from ggq.quant.grid import Grid
from ggq.quant.matrix import QuantizedMatrix, geometry, largest_code
from ggq.quant.methods import fills
from ggq.quant.reference import by_groups
from ggq.train.quantize.rounding import GivenNumbers, Levels, RoundToGrid, ScaleGradient
from ggq.train.quantize.start import Wished, quantized_by, ternary_threshold, wished_by, wishes_of

THRESHOLD = "threshold"
"""The second straight-through form of ternary weights; see `ggq.train.quantize.start.ternary_threshold`."""

LEAST_STEP, SMALLEST_STEP = 2.0**-14, 2.0**-24
"""Steps stay at or above the smallest normal f16 number, or a sixteenth of where they began if that is less; and above
the smallest number that f16 has at all."""


class FakeQuantizer(nn.Module):
    """Rounds one matrix to its scheme; what kinds of it share.

    Args:
        scheme: A scheme of codes without transforms.
        rows, columns: Of the matrix.
        codebook: int8 (2**bits,) where the scheme has one.
    """

    def __init__(self, scheme: Scheme, rows: int, columns: int, codebook: np.ndarray | None = None) -> None:
        super().__init__()
        if scheme.kind == "float" or scheme.transform:
            raise UsageError("only schemes of codes without transforms can be trained")
        self.scheme, self.sizes, self.codebook = scheme, geometry(scheme, (rows, columns)), codebook
        table = None if codebook is None else torch.from_numpy(np.unique(codebook).astype(np.float32))
        self.register_buffer("table", table, persistent=False)
        self.frozen: Any = None

    @property
    def levels(self) -> Levels:
        """Of the scheme's codes."""
        return Levels(self.scheme, self.table)

    def wished(self) -> Wished:
        """The grid as it is wished for now."""
        raise NotImplementedError

    def refresh(self, weights: Any) -> None:
        """Choose the grid anew where it follows the weights: float32 (rows, columns)."""

    def project(self) -> None:
        """Bring back into their range what an optimizer moved out of it."""

    def matrix(self, weights: Any) -> QuantizedMatrix:
        """Codes, scales and the rest for weights (rows, columns): what a forward pass with them computes with."""
        grid = self.wished().grid()
        with torch.no_grad():
            groups = self._groups(weights.detach())
            level = self._level(groups, grid)
        codes = self._codes(level.numpy(force=True), grid)
        return grid.matrix(codes.reshape(len(codes), -1), (self.sizes.rows, self.sizes.columns))

    def freeze(self, weights: Any) -> None:
        """Keep the codes that these weights have now, whatever becomes of steps and weights."""
        with torch.no_grad():
            self.frozen = self._level(self._groups(weights.detach()), self.wished().grid())

    def _groups(self, weights: Any) -> Any:
        """(rows, columns) as (rows, groups, group), padded with zeros."""
        more = self.sizes.padded_columns - self.sizes.columns
        padded = nn.functional.pad(weights, (0, more)) if more else weights
        return padded.reshape(self.sizes.rows, self.sizes.groups, self.sizes.group)

    def _flat(self, groups: Any) -> Any:
        """The other way round."""
        return groups.reshape(self.sizes.rows, self.sizes.padded_columns)[:, : self.sizes.columns]

    def _stored(self, grid: Grid, like: Any) -> tuple[Any, Any]:
        """Steps and shifts of a grid as they are stored, (rows, groups, 1)."""
        shift = grid.minimum if grid.zeros is None else grid.zeros.astype(np.float32)
        step = torch.from_numpy(np.ascontiguousarray(grid.step)).to(like.device)[..., None]
        return step, None if shift is None else torch.from_numpy(np.ascontiguousarray(shift)).to(like.device)[..., None]

    def _level(self, groups: Any, grid: Grid) -> Any:
        """The levels of weights, in steps."""
        if self.frozen is not None:
            return self.frozen
        step, shift = self._stored(grid, groups)
        minimum = shift if self.scheme.zero == "minimum" else None
        inverse = torch.where(step == 0, torch.zeros_like(step), 1 / step)
        low, high = self.levels.bounds(shift if self.scheme.zero == "code" else None)
        return self.levels.nearest((groups if minimum is None else groups + minimum) * inverse, low, high)

    def _codes(self, level: np.ndarray, grid: Grid) -> np.ndarray:
        """The codes of levels, uint8 in their shape."""
        if self.codebook is not None:
            entries, places = np.unique(self.codebook.astype(np.float32), return_index=True)
            return places[np.searchsorted(entries, level)].astype(np.uint8)
        if grid.zeros is not None:
            return (level + grid.zeros[..., None]).astype(np.uint8)
        if self.scheme.kind == "binary":
            return (level > 0).astype(np.uint8)
        low = 0.0 if self.scheme.zero == "minimum" else self.levels.bounds()[0]
        return (level - low).astype(np.uint8)


class FollowingQuantizer(FakeQuantizer):
    """The grid follows the weights: a post-training method chooses it again and again (QAT).

    Args:
        scheme, rows, columns: As in `FakeQuantizer`.
        weights: float32 (rows, columns), where the grid and a codebook begin.
        method: Name of the method; None for the scheme's default, "threshold" for ternary weights as in TWN.
        start: Where the grid begins instead; it follows by least squares under the codes that weights have then, since
            a method would find its own grid again.
    """

    def __init__(
        self, scheme: Scheme, weights: np.ndarray, method: str | None = None, start: Wished | None = None
    ) -> None:
        if method == THRESHOLD and scheme.kind != "ternary":
            raise UsageError(f"method {THRESHOLD} is for ternary weights")
        first = None if method == THRESHOLD or start is not None else quantized_by(weights, scheme, method)
        table = start.codebook if start is not None else None if first is None else first.codebook
        super().__init__(scheme, len(weights), weights.shape[1], table)
        self.method, self.follows = None if start is not None else method, start is not None
        shape = (self.sizes.rows, self.sizes.groups)
        self.register_buffer("step", torch.zeros(shape))
        self.register_buffer("shift", torch.zeros(shape) if scheme.zero in ("code", "minimum") else None)
        self.register_buffer("threshold", torch.zeros(shape) if self.method == THRESHOLD else None)
        if start is None:
            self.refresh(torch.from_numpy(weights))
        else:
            self._take(start)

    def refresh(self, weights: Any) -> None:
        """See `FakeQuantizer`."""
        if self.follows:
            self._fit(weights)
            return
        numbers = np.ascontiguousarray(weights.detach().numpy(force=True), np.float32)
        if self.method == THRESHOLD:
            threshold, step = ternary_threshold(by_groups(numbers, self.scheme))
            self.threshold.copy_(torch.from_numpy(threshold))
            self.step.copy_(torch.from_numpy(step))
            return
        self._take(wishes_of(quantized_by(numbers, self.scheme, self.method, codebook=self.codebook)))

    def _take(self, wished: Wished) -> None:
        """Go on with a grid."""
        self.step.copy_(torch.from_numpy(wished.step))
        if wished.shift is not None:
            self.shift.copy_(torch.from_numpy(wished.shift))

    def _fit(self, weights: Any) -> None:
        """Steps, and minimums where there are some, that come nearest to weights under the codes that these have now;
        zero-points stay. Where all codes of a group are alike, its step stays."""
        with torch.no_grad():
            groups = self._groups(weights.detach())
            level = self._level(groups, self.wished().grid())
            real = self._groups(torch.ones_like(weights))
            count = real.sum(-1)
            mean_level = mean_weight = torch.zeros_like(self.step)
            if self.scheme.zero == "minimum":
                mean_level, mean_weight = ((x * real).sum(-1) / count for x in (level, groups))
            apart = (level - mean_level[..., None]) * real
            square = (apart * apart).sum(-1)
            step = torch.where(square > 0, (apart * groups).sum(-1) / square.clamp(min=1e-30), self.step)
            self.step.copy_(torch.where(step * self.step > 0, step, self.step))  # a step keeps its sign
            if self.scheme.zero == "minimum":
                self.shift.copy_(self.step * mean_level - mean_weight)

    def wished(self) -> Wished:
        """See `FakeQuantizer`."""
        shift = None if self.shift is None else self.shift.numpy(force=True)
        return Wished(self.scheme, self.step.numpy(force=True), shift, self.codebook)

    def forward(self, weights: Any) -> Any:
        """The numbers of a file, float32 (rows, columns).

        Uniform and codebook weights that lie outside the levels get no gradient; ternary and binary ones always do,
        as nothing would bring back a weight that has left a range of one step.
        """
        groups, grid = self._groups(weights), self.wished().grid()
        if self.scheme.kind not in ("ternary", "binary") and self.frozen is None:
            step, shift = self._stored(grid, groups)
            return self._flat(RoundToGrid.apply(groups, step, shift, step, shift, self.levels))
        with torch.no_grad():
            step, shift = self._stored(grid, groups)
            numbers = step * self._level(groups.detach(), grid)
            numbers = numbers - shift if self.scheme.zero == "minimum" else numbers
        return self._flat(GivenNumbers.apply(groups, numbers))

    def _level(self, groups: Any, grid: Grid) -> Any:
        if self.threshold is None or self.frozen is not None:
            return super()._level(groups, grid)
        return torch.where(groups.abs() > self.threshold[..., None], torch.sign(groups), torch.zeros_like(groups))


class LearnedQuantizer(FakeQuantizer):
    """Steps, and zero-points or minimums, are parameters (LSQ, LSQ+); steps have a fixed sign and stay positive.

    Args:
        wished: Where the grid begins.
        rows, columns: Of the matrix.
    """

    def __init__(self, wished: Wished, rows: int, columns: int) -> None:
        super().__init__(wished.scheme, rows, columns, wished.codebook)
        size = np.maximum(np.abs(wished.step), np.float32(SMALLEST_STEP))
        least = np.clip(size / 16, SMALLEST_STEP, LEAST_STEP).astype(np.float32)
        self.size = nn.Parameter(torch.from_numpy(size.copy()))
        self.register_buffer("sign", torch.from_numpy(np.where(wished.step < 0, np.float32(-1), np.float32(1))))
        self.register_buffer("least", torch.from_numpy(least))
        self.shift = None if wished.shift is None else nn.Parameter(torch.from_numpy(wished.shift.copy()))

    @property
    def gradient_scale(self) -> float:
        """1 / sqrt(weights of a group * largest level): LSQ multiplies the gradients of steps with it (section 2.2)."""
        if self.scheme.kind in ("ternary", "binary"):
            most = 1
        elif self.codebook is not None:
            most = int(np.abs(self.codebook.astype(int)).max())
        else:
            codes = largest_code(self.scheme)
            most = codes // 2 if self.scheme.zero == "none" else codes
        return float((min(self.sizes.group, self.sizes.columns) * most) ** -0.5)

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Steps and shifts with their rates: a share of the mean step, of a code, or of the mean minimum."""
        found = [{"params": [self.size], "lr": rate * float(self.size.detach().mean())}]
        if self.shift is not None:
            unit = 1.0 if self.scheme.zero == "code" else float(self.shift.detach().abs().mean())
            found.append({"params": [self.shift], "lr": rate * unit})
        return found

    def project(self) -> None:
        """See `FakeQuantizer`."""
        with torch.no_grad():
            self.size.copy_(torch.maximum(self.size, self.least))
            if self.shift is not None and self.scheme.zero == "code":
                self.shift.clamp_(0, largest_code(self.scheme))
            elif self.shift is not None and self.scheme.subscale:
                self.shift.clamp_(min=0)

    def wished(self) -> Wished:
        """See `FakeQuantizer`."""
        step = (self.size * self.sign).detach().numpy(force=True)
        return Wished(
            self.scheme, step, None if self.shift is None else self.shift.detach().numpy(force=True), self.codebook
        )

    def forward(self, weights: Any) -> Any:
        """The numbers of a file, float32 (rows, columns)."""
        groups, grid, factor = self._groups(weights), self.wished().grid(), self.gradient_scale
        stored, extra = self._stored(grid, groups)
        step = ScaleGradient.apply(self.size, factor)[..., None] * self.sign[..., None]
        shift = None if self.shift is None else ScaleGradient.apply(self.shift, factor)[..., None]
        if self.frozen is None:
            return self._flat(RoundToGrid.apply(groups, step, shift, stored, extra, self.levels))
        step = GivenNumbers.apply(step, stored)
        numbers = step * self.frozen
        if self.scheme.zero == "minimum":
            numbers = numbers - GivenNumbers.apply(shift, extra)
        return self._flat(numbers)


def quantizer_of(
    numbers: np.ndarray, scheme: Scheme, learned: bool, method: str | None = None, start: Wished | None = None
) -> FakeQuantizer:
    """The quantizer of a tensor, float32 with every dimension but the last counted as rows.

    A method that cannot fill the scheme, as one for the body's matrices cannot always fill the embedding's, makes room
    for the scheme's default.
    """
    flat = np.ascontiguousarray(numbers.reshape(-1, numbers.shape[-1]))
    able = method is not None and (fills(scheme, method) or (method, scheme.kind) == (THRESHOLD, "ternary"))
    own = method if able else None
    if not learned:
        return FollowingQuantizer(scheme, flat, own, start)
    return LearnedQuantizer(start or wished_by(flat, scheme, own), *flat.shape)
