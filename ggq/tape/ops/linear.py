"""Matrix products."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np

from ggq.tape.buffers import Buffer
from ggq.tape.ops.operation import WEIGHT, WRITE_OR_ADD, Operation, Product, Read
from ggq.tape.passes import Backward, Forward, Oracle

if TYPE_CHECKING:
    from ggq.tape.folding import Origin, Origins


@dataclass(frozen=True, eq=False)
class Linear(Operation):
    """outs[j] = source @ weights[j].T + biases[j], or added to outs[j] when `add`; all weights share the source.

    With int8 activations the source is first rounded per activation group (`ggq.quant.stored.activation_group`).
    """

    name: ClassVar[str] = "linear"
    source: Read
    weights: Annotated[tuple[str, ...], WEIGHT]
    biases: Annotated[tuple[str | None, ...], WEIGHT]
    outs: Annotated[tuple[Buffer, ...], WRITE_OR_ADD]
    add: bool = False

    def products(self) -> tuple[Product, ...]:
        """See `Operation`."""
        return (self.whole_product(),)

    def whole_product(self) -> Product:
        """See `Operation`."""
        return Product(self.source, self.weights, self.biases, self.outs, self.add)

    def forward(self, run: Forward) -> None:
        """See `Operation`."""
        source = run[self.source]
        flat = source.reshape(-1, source.shape[-1])
        run.observe(self.products()[0], flat)
        for role, bias, out in zip(self.weights, self.biases, self.outs, strict=True):
            if not run.useful(out):
                continue
            result = flat @ run.weight(role).T
            if bias is not None:
                result = result + run.weight(bias)
            result = result.reshape(*source.shape[:-1], -1)
            run[out] = run[out] + result if self.add else result

    def backward(self, run: Backward) -> None:
        """See `Operation`."""
        source = run[self.source]
        flat = source.reshape(-1, source.shape[-1])
        total = run.xp.zeros_like(flat)
        for role, out in zip(self.weights, self.outs, strict=True):
            slope = run.slope(out) if self.add else run.take(out)
            slope = slope.reshape(-1, slope.shape[-1])
            run.meet(role, flat, slope)
            total = total + slope @ run.weight(role)
        run.add(self.source, total.reshape(source.shape))

    def oracle(self, run: Oracle) -> None:
        """Each matrix meets its inputs transformed and rounded as it asks for."""
        run.observe(self.products()[0], run[self.source])
        for role, bias, out in zip(self.weights, self.biases, self.outs, strict=True):
            weight = run.stored(role)
            x, numbers = run.rounded(weight, run[self.source])
            result = x @ numbers.astype(np.float64).T
            if bias is not None:
                result = result + run.weight(bias)
            run[out] = run[out] + result if self.add else result

    def origins(self, known: Origins) -> dict[Buffer | int, Origin | None]:
        """Rows of its own matrices."""
        from ggq.tape.folding import Origin

        found: dict[Buffer | int, Origin | None] = {}
        for role, bias, out in zip(self.weights, self.biases, self.outs, strict=True):
            found[out] = None if self.add else Origin((), (role,), (bias,), np.arange(out.width), out.width)
        return found


def multiplied_alone(ops: Iterable[Operation]) -> set[str]:
    """Roles of the matrices that nothing else is done with than products like these."""
    ops = tuple(ops)
    found = {role for op in ops if isinstance(op, Linear) for role in op.weights}
    return found - {role for op in ops if not isinstance(op, Linear) for role in op.weights_read()}


def with_corrections(op: Operation, ranks: Mapping[str, int]) -> list[Operation]:
    """An operation, with a correction of low rank added to each of its products that has one: up @ (down @ x).

    Args:
        op: Any; others than products stay as they are.
        ranks: The ranks of corrections by the role of the matrix; theirs are `down_role` and `up_role`.
    """
    places = [place for place, role in enumerate(op.weights) if role in ranks] if isinstance(op, Linear) else []
    if not isinstance(op, Linear) or not places:
        return [op]
    roles = [op.weights[place] for place in places]
    low = tuple(Buffer(f"{down_role(role)} result", ranks[role], op.source.rows) for role in roles)
    found: list[Operation] = [Linear(op.source, tuple(map(down_role, roles)), (None,) * len(roles), low), op]
    for x, role, place in zip(low, roles, places, strict=True):
        found.append(Linear(x, (up_role(role),), (None,), (op.outs[place],), add=True))
    return found


def down_role(role: str) -> str:
    """The role of the first factor of a matrix's correction, (rank, columns)."""
    return f"{role.removesuffix('.weight')}.lora_a"


def up_role(role: str) -> str:
    """The role of the second one, (rows, rank)."""
    return f"{role.removesuffix('.weight')}.lora_b"
