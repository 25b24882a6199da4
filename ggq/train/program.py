"""A program as a PyTorch module: every family that converts can be trained, without transformers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ggq.tape.buffers import Buffer
from ggq.tape.cut import Section, cache_of, sections
from ggq.tape.ops.operation import Operation, Product
from ggq.tape.program import Program
from ggq.tape.rotation import Rotation
from ggq.train.namespace import XP
from ggq.train.quantize.inputs import InputRounding
from ggq.train.quantize.weight import TrainedWeight

State = dict[Buffer, Any]
"""Tensors (windows, context, width) by buffer."""


class ProgramModule(nn.Module):
    """The program of a model with weights that are trained.

    Args:
        program: Any.
        weights: Its tensors by role.
        rounding: Rounds the inputs of quantized matrices to int8; None for inputs as they are.
    """

    def __init__(
        self, program: Program, weights: Mapping[str, TrainedWeight], rounding: InputRounding | None = None
    ) -> None:
        super().__init__()
        self.program, self.sections = program, sections(program)
        self.weights = nn.ModuleDict({role.replace(".", "/"): weight for role, weight in weights.items()})
        self.rounding = rounding
        self.remember = True
        self._tables: dict[Any, Any] = {}

    def weight(self, role: str) -> TrainedWeight:
        """The tensor with a role."""
        found: TrainedWeight = self.weights[role.replace(".", "/")]
        return found

    @property
    def roles(self) -> list[str]:
        """Roles of all tensors."""
        return [name.replace("/", ".") for name in self.weights]

    def forward(self, tokens: Any) -> Any:
        """Logits, float (windows, context, vocabulary), of token ids (windows, context)."""
        state: State = {}
        for section in self.sections:
            state = self.run(section, tokens, state)
        return state[self.program.result]

    def run(self, section: Section, tokens: Any, state: Mapping[Buffer, Any]) -> State:
        """Carry out a section: what later sections read, and behind the last one the result."""
        kept = sorted(section.kept, key=lambda buffer: buffer.name)
        if section is self.sections[-1]:
            kept = [self.program.result]

        def computed(*values: Any) -> tuple[Any, ...]:
            run = _Run(self, tokens, dict(zip(state, values, strict=True)))
            for op in section.ops:
                run.step(op)
            return tuple(run.kept(buffer) for buffer in kept)

        values = tuple(state.values())
        if self.remember or not torch.is_grad_enabled():
            return dict(zip(kept, computed(*values), strict=True))
        from torch.utils.checkpoint import checkpoint

        return dict(zip(kept, checkpoint(computed, *values, use_reentrant=False), strict=True))

    def rotation(self, rotation: Rotation, context: int, device: Any) -> tuple[Any, Any]:
        """Cosines and sines of positions up to a context, float32."""
        key = (rotation, context, device)
        if key not in self._tables:
            tables = rotation.of_text(context)
            self._tables[key] = tuple(torch.from_numpy(each.astype(np.float32)).to(device) for each in tables)
        found: tuple[Any, Any] = self._tables[key]
        return found

    def mask(self, window: int, causal: bool, context: int, device: Any) -> Any:
        """0 where a token sees another, -inf where not, float32 (context, context)."""
        key = (window, causal, context, device)
        if key not in self._tables:
            ages = torch.arange(context)[:, None] - torch.arange(context)
            seen = ages >= 0 if causal else torch.ones_like(ages, dtype=torch.bool)
            seen = seen & (ages.abs() < window) if window else seen
            self._tables[key] = torch.where(seen, 0.0, -float("inf")).to(device)
        return self._tables[key]


class _Run:
    """One pass over windows of equal length; see `ggq.tape.passes.Forward`."""

    xp = XP

    def __init__(self, module: ProgramModule, tokens: Any, state: State) -> None:
        self.module, self.tokens, self.state = module, tokens, state
        self.caches: dict[int, Sequence[Any]] = {}
        self._weights: dict[str, Any] = {}
        for buffer, cache in ((buffer, cache_of(buffer)) for buffer in state):
            if cache is not None:  # keys or values of an earlier section
                held = list(self.caches.get(cache[0], (None, None)))
                held[cache[1]] = state[buffer]
                self.caches[cache[0]] = held

    def kept(self, buffer: Buffer) -> Any:
        """What a buffer holds that later sections read; it may stand for a cache."""
        found = cache_of(buffer)
        return self.state[buffer] if found is None else self.caches[found[0]][found[1]]

    def step(self, op: Operation) -> None:
        """Carry out one operation."""
        if self.module.rounding is not None and self._quantized(op):
            self._rounded(op, self.module.rounding)
        else:
            op.forward(self)

    def _quantized(self, op: Operation) -> bool:
        """Whether it multiplies with matrices that are stored as codes; an embedding only takes rows."""
        return not op.tables() and any(self.module.weight(role).scheme.kind != "float" for role in op.weights_read())

    def _rounded(self, op: Operation, rounding: InputRounding) -> None:
        """A product whose matrices meet their inputs rounded to int8."""
        source, weights, biases, outs, add = rounding.product(op)
        for role, bias, out in zip(weights, biases, outs, strict=True):
            x = rounding(self[source], self.module.weight(role).scheme, role)
            result = nn.functional.linear(x, self.weight(role), None if bias is None else self.weight(bias))
            self[out] = self[out] + result if add else result

    def __getitem__(self, buffer: Buffer) -> Any:
        return self.state[buffer]

    def __setitem__(self, buffer: Buffer, value: Any) -> None:
        self.state[buffer] = value

    def weight(self, role: str) -> Any:
        """See `Forward`; computed once in a pass."""
        if role not in self._weights:
            self._weights[role] = self.module.weight(role)()
        return self._weights[role]

    def inner(self, x: Any, y: Any) -> Any:
        """See `Forward`."""
        return (x * y).sum(-1, keepdim=True)

    def observe(self, product: Product, source: Any) -> None:
        """Nobody is told."""

    def useful(self, buffer: Buffer) -> bool:
        """Everything is computed."""
        return True

    def rotation(self, rotation: Rotation) -> tuple[Any, Any]:
        """See `Forward`."""
        return self.module.rotation(rotation, self.tokens.shape[1], self.tokens.device)

    def ids(self, by: str) -> Any:
        """See `Forward`; every text is of type 0."""
        if by == "token":
            return self.tokens
        row = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return (row if by == "position" else torch.zeros_like(row)).expand(self.tokens.shape)

    def mask(self, window: int, causal: bool = True) -> Any:
        """See `Forward`."""
        return self.module.mask(window, causal, self.tokens.shape[1], self.tokens.device)

    def store(self, cache: int, values: Sequence[Any]) -> None:
        """See `Forward`."""
        self.caches[cache] = values

    def cached(self, cache: int) -> Sequence[Any]:
        """See `Forward`."""
        return self.caches[cache]


def trainable(module: nn.Module) -> Iterable[Any]:
    """Its parameters that get gradients."""
    return (parameter for parameter in module.parameters() if parameter.requires_grad)
