"""Rounding to a grid with straight-through gradients: the function that fake quantization is made of.

For a weight w of a group with step s, let u = w / s be the weight in steps (behind its zero-point or minimum) and q the
level that its code stands for. The forward pass gives s * q (less the minimum), the number that a file decodes to, bit
for bit. Backwards, as in Esser et al. 2019, Learned Step Size Quantization (arXiv 1902.08153), equations 3 to 5:

    of w:    1 where u is between the lowest and the highest level, else 0
    of s:    q - u where it is, else q
    of a zero-point z (codes 0 to n are z to n - z steps):       0 where it is, else -s
    of a minimum m (the number is s * code - m):                  0 where it is, else -1

The last two are Bhalgat et al. 2020, LSQ+ (arXiv 2004.09576), for zero-points that are rounded to whole codes and for
float minimums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ggq.format.scheme import Scheme
from ggq.quant.matrix import largest_code, middle


@dataclass(frozen=True, eq=False)
class Levels:
    """The levels of a scheme's codes.

    Args:
        scheme: A scheme of codes.
        table: float32 (2**bits,) of a codebook, ascending, else None.
    """

    scheme: Scheme
    table: Any = None

    def bounds(self, zeros: Any = None) -> tuple[Any, Any]:
        """The lowest and the highest level, in steps: numbers, or a tensor where there are zero-points."""
        if self.table is not None:
            return float(self.table[0]), float(self.table[-1])
        if self.scheme.kind in ("ternary", "binary"):
            return -1.0, 1.0
        if self.scheme.zero == "none":
            return -float(middle(self.scheme)), float(middle(self.scheme) - 1)
        if zeros is not None:
            return -zeros, float(largest_code(self.scheme)) - zeros
        return 0.0, float(largest_code(self.scheme))

    def nearest(self, steps: Any, low: Any, high: Any) -> Any:
        """The levels nearest to numbers of steps; halves to even, of a codebook to the smaller entry."""
        if self.table is not None:
            middles = (self.table[1:] + self.table[:-1]) / 2
            return self.table[torch.bucketize(steps, middles)]
        if self.scheme.kind == "binary":
            return torch.where(steps >= 0, 1.0, -1.0)
        return torch.clamp(torch.round(steps), low, high)


class RoundToGrid(torch.autograd.Function):
    """See the module."""

    @staticmethod
    def forward(ctx: Any, weights: Any, step: Any, shift: Any, stored: Any, extra: Any, levels: Levels) -> Any:
        """Round.

        Args:
            ctx: PyTorch's.
            weights: float32 (rows, groups, group).
            step: float32 (rows, groups, 1), wished: gets the gradient of the stored one.
            shift: The same for zero-points or minimums; None where there are none.
            stored: float32 (rows, groups, 1): the step as it is stored.
            extra: The same for zero-points or minimums; None.
            levels: Of the scheme.
        """
        minimum = extra if levels.scheme.zero == "minimum" else None
        zeros = extra if levels.scheme.zero == "code" else None
        inverse = torch.where(stored == 0, torch.zeros_like(stored), 1 / stored)
        steps = (weights if minimum is None else weights + minimum) * inverse
        low, high = levels.bounds(zeros)
        level = levels.nearest(steps, low, high)
        ctx.levels, ctx.bounds = levels, (low, high)
        ctx.save_for_backward(steps, level, stored)
        numbers = stored * level
        return numbers if minimum is None else numbers - minimum

    @staticmethod
    def backward(ctx: Any, slope: Any) -> tuple[Any, ...]:
        """The gradients of the module's table; those of steps and shifts are sums over their groups."""
        steps, level, stored = ctx.saved_tensors
        low, high = ctx.bounds
        inside = (steps >= low) & (steps <= high)
        needs_weight, needs_step, needs_shift = ctx.needs_input_grad[:3]
        to_weight = torch.where(inside, slope, torch.zeros_like(slope)) if needs_weight else None
        to_step = to_shift = None
        if needs_step:
            to_step = (slope * torch.where(inside, level - steps, level)).sum(-1, keepdim=True)
        if needs_shift:
            outside = torch.where(inside, torch.zeros_like(slope), slope).sum(-1, keepdim=True)
            to_shift = -outside * stored if ctx.levels.scheme.zero == "code" else -outside
        return to_weight, to_step, to_shift, None, None, None


class ScaleGradient(torch.autograd.Function):
    """The same number with its gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Any, factor: float) -> Any:
        """Nothing is done."""
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, slope: Any) -> tuple[Any, None]:
        """Times the factor."""
        return slope * ctx.factor, None


class GivenNumbers(torch.autograd.Function):
    """Numbers that stand for weights; the weights get the gradient as it is (Bengio et al. 2013, arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: Any, weights: Any, numbers: Any) -> Any:
        """The numbers."""
        return numbers.clone()

    @staticmethod
    def backward(ctx: Any, slope: Any) -> tuple[Any, None]:
        """The gradient as it is."""
        return slope, None
