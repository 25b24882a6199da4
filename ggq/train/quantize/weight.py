"""One tensor of a model while it is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ggq.format.scheme import Scheme
from ggq.quant.matrix import QuantizedMatrix
from ggq.train.quantize.fake import FakeQuantizer
from ggq.train.quantize.rounding import GivenNumbers

Settle = Callable[[np.ndarray], np.ndarray]
"""Makes numbers those that a checkpoint can hold and that are read back from it."""


class TrainedWeight(nn.Module):
    """A tensor: float numbers, a quantizer for matrices that are stored as codes, and a correction of low rank.

    Args:
        numbers: float32, in the tensor's shape.
        scheme: How it will be stored.
        quantizer: Rounds it; None for tensors that are stored as floats.
        rank: Columns of a correction B @ A, which starts at zero and is folded in before the export; the numbers
            themselves stay then. 0 for none.
        settle: For tensors stored as floats: see `Settle`.
    """

    def __init__(
        self,
        numbers: np.ndarray,
        scheme: Scheme,
        quantizer: FakeQuantizer | None = None,
        rank: int = 0,
        settle: Settle | None = None,
    ) -> None:
        super().__init__()
        self.scheme, self.settle = scheme, settle
        self.numbers = nn.Parameter(torch.from_numpy(np.array(numbers, np.float32)))
        self.quantizer = quantizer
        self.left = self.right = None
        if rank and quantizer is not None:
            rows, columns = numbers.reshape(-1, numbers.shape[-1]).shape
            generator = torch.Generator().manual_seed(rows * 65537 + columns)
            self.left = nn.Parameter(torch.zeros(rows, rank))
            self.right = nn.Parameter(torch.randn(rank, columns, generator=generator) * columns**-0.5)
            self.numbers.requires_grad_(False)

    @property
    def full(self) -> Any:
        """The numbers with their correction, before they are rounded."""
        if self.left is None:
            return self.numbers
        return self.numbers + (self.left @ self.right).reshape(self.numbers.shape)

    def forward(self) -> Any:
        """The numbers that the model computes with: those of the file, bit for bit."""
        if self.quantizer is not None:
            full = self.full
            return self.quantizer(full.reshape(-1, full.shape[-1])).reshape(full.shape)
        if self.settle is None:
            return self.numbers
        settled = torch.from_numpy(self.settle(self.numbers.detach().numpy(force=True))).to(self.numbers.device)
        return GivenNumbers.apply(self.numbers, settled)

    def refresh(self) -> None:
        """Let a grid that follows the weights follow them."""
        if self.quantizer is not None and self.quantizer.frozen is None:
            full = self.full.detach()
            self.quantizer.refresh(full.reshape(-1, full.shape[-1]))

    def fold(self) -> None:
        """Add the correction to the numbers; it is zero afterwards."""
        if self.left is not None:
            with torch.no_grad():
                self.numbers.copy_(self.full)
                self.left.zero_()

    def freeze_codes(self) -> None:
        """Keep the codes as they are; steps and shifts may still move."""
        if self.quantizer is not None:
            full = self.full.detach()
            self.quantizer.freeze(full.reshape(-1, full.shape[-1]))

    def matrix(self) -> QuantizedMatrix:
        """What is stored: (rows, columns) with every dimension but the last counted as rows."""
        assert self.quantizer is not None
        full = self.full.detach()
        return self.quantizer.matrix(full.reshape(-1, full.shape[-1]))
