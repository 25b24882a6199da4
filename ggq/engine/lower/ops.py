"""Operations that only kernels know: rounding, and products of what was rounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ggq.tape.buffers import Buffer
from ggq.tape.ops.operation import WEIGHT, WRITE, WRITE_OR_ADD, Operation, Read, Update, Write


@dataclass(frozen=True)
class Rounded(Buffer):
    """A buffer of numbers as a matrix wants them.

    Args:
        columns: Of the matrix, padded.
        group: Columns that share an int8 scale; 0 where nothing is rounded to int8.
        order, column_scale: Addresses of the matrix's order and factors of columns, 0 for none.
        form: How numbers are rounded to int8: "group", "token" or "static" with the step `step`.
        halves: Whether this is the bf16 form of many tokens alone, beside the floats of few.
    """

    columns: int = 0
    group: int = 0
    order: int = 0
    column_scale: int = 0
    form: str = "group"
    step: float = 0.0
    halves: bool = False


@dataclass(frozen=True, eq=False)
class Round(Operation):
    """out = source, its columns moved and scaled as `out` says, rounded to int8 (or, many tokens, to bf16)."""

    name: ClassVar[str] = "quantize"
    source: Read
    out: Annotated[Rounded, WRITE]
    matrix: str
    """Role of a matrix that wants it so."""


@dataclass(frozen=True, eq=False)
class RoundGate(Operation):
    """out = activation(gate) * up, rounded to int8 (or, many tokens, to bf16)."""

    name: ClassVar[str] = "gate quantize"
    gate: Read
    up: Read
    out: Annotated[Rounded, WRITE]
    activation: str
    matrix: str
    label: str


@dataclass(frozen=True, eq=False)
class Rearrange(Operation):
    """out = source, its columns moved and scaled as `out` says, in float32."""

    name: ClassVar[str] = "transform"
    source: Read
    out: Annotated[Rounded, WRITE]
    matrix: str


@dataclass(frozen=True, eq=False)
class Halve(Operation):
    """out = source rounded to bf16 where there are many tokens."""

    name: ClassVar[str] = "round"
    source: Read
    out: Annotated[Rounded, WRITE]


@dataclass(frozen=True, eq=False)
class Multiply(Operation):
    """outs[j] = source @ weights[j].T + biases[j], or added to outs[j]; all weights are of one kind.

    Args:
        source: As the kernels read it.
        halves: The same in bf16, for many tokens, where `source` is not rounded itself.
    """

    name: ClassVar[str] = "linear"
    source: Read
    halves: Read | None
    weights: Annotated[tuple[str, ...], WEIGHT]
    biases: Annotated[tuple[str | None, ...], WEIGHT]
    outs: Annotated[tuple[Buffer, ...], WRITE_OR_ADD]
    add: bool = False


@dataclass(frozen=True, eq=False)
class Assign(Operation):
    """Note which rows go through each expert, a column of the shares; and out = 0."""

    name: ClassVar[str] = "assign"
    shares: Read
    out: Write


@dataclass(frozen=True, eq=False)
class Gather(Operation):
    """out = the rows of source that go through an expert, whose number ends the `rows` of out."""

    name: ClassVar[str] = "gather"
    source: Read
    shares: Read
    out: Write


@dataclass(frozen=True, eq=False)
class AddShares(Operation):
    """total += source times the share of its expert, in the rows that go through this."""

    name: ClassVar[str] = "add shares"
    source: Read
    shares: Read
    total: Update
