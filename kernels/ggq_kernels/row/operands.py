"""Where a row of a tape holds the operands of each kernel of this folder, in bytes from the row's beginning.

A float is a float64. Imports nothing of Numba's: kernels and those who make their rows read the same records.
"""

from __future__ import annotations

from typing import NamedTuple

PIECE = 1024
"""Columns of a row that one thread takes at a time where columns do not depend on each other."""


class NormRow(NamedTuple):
    """`weight` and `bias` are addresses, 0 for none; `epsilon` is the address of a float64; `step`: bytes from the
    weights and biases of one part to those of the next, 0 where all have the same."""

    tokens: int = 8
    source: int = 16
    source_stride: int = 24
    out: int = 32
    out_stride: int = 40
    width: int = 48
    weight: int = 56
    epsilon: int = 64
    bias: int = 72
    heads: int = 80
    step: int = 88


class RopeRow(NamedTuple):
    """`dim`: numbers of a head; `pairs`: of a head that turn; `table`: the address of the address of float32
    (positions, 2 * pairs); `positions`: the address of an int64 for each token."""

    tokens: int = 8
    buffer: int = 16
    stride: int = 24
    heads: int = 32
    dim: int = 40
    pairs: int = 48
    table: int = 56
    positions: int = 64


class GateRow(NamedTuple):
    """Gate and up have one stride."""

    tokens: int = 8
    gate: int = 16
    stride: int = 24
    up: int = 32
    out: int = 40
    out_stride: int = 48
    width: int = 56


class ElementsRow(NamedTuple):
    """What is done number by number; floats: `scale`, `cap`."""

    tokens: int = 8
    source: int = 16
    source_stride: int = 24
    out: int = 32
    out_stride: int = 40
    width: int = 48
    scale: int = 56
    cap: int = 64


class SelectRow(NamedTuple):
    """`rows`: the address of int64 row numbers."""

    tokens: int = 8
    source: int = 16
    source_stride: int = 24
    out: int = 32
    out_stride: int = 40
    width: int = 48
    rows: int = 56


class CopyRow(NamedTuple):
    """`heads` parts of `width` numbers, each `source_step` and `step` numbers behind the one before; `columns` of `out`
    become 0 first unless `keep`."""

    tokens: int = 8
    source: int = 16
    source_stride: int = 24
    out: int = 32
    out_stride: int = 40
    columns: int = 48
    heads: int = 56
    width: int = 64
    source_start: int = 72
    source_step: int = 80
    start: int = 88
    step: int = 96
    keep: int = 104


class TransformRow(NamedTuple):
    """`order` and `factors` are addresses, 0 for none."""

    tokens: int = 8
    source: int = 16
    source_stride: int = 24
    out: int = 32
    out_stride: int = 40
    width: int = 48
    order: int = 56
    factors: int = 64


class RoundRow(NamedTuple):
    """Args:
    width: Columns that are rounded, in pieces of `group`.
    out, scales, offsets, sums: Where the int8 form goes.
    bf16: Where the bf16 form of many tokens goes.
    order, factors: As a transform's.
    form: 0 a scale for each piece, 1 for each token, 2 the float `step`.
    up: A gate's second source, of the source's stride; 0 for none.
    """

    tokens: int = 8
    source: int = 16
    source_stride: int = 24
    width: int = 32
    out: int = 40
    scales: int = 48
    offsets: int = 56
    sums: int = 64
    bf16: int = 72
    group: int = 80
    order: int = 88
    factors: int = 96
    form: int = 104
    step: int = 112
    up: int = 120


class RouteRow(NamedTuple):
    """`gate`: 0 for none; `chosen`: how many of the `width` logits; `renormalised`: 0 or 1; floats: `scale`."""

    tokens: int = 8
    logits: int = 16
    logits_stride: int = 24
    width: int = 32
    gate: int = 40
    gate_stride: int = 48
    out: int = 56
    out_stride: int = 64
    chosen: int = 72
    renormalised: int = 80
    scale: int = 88


class ScoredRow(NamedTuple):
    """As a RouteRow; `sigmoid`: 0 for a softmax; `correction`, `factors`: addresses of float32 (width,), 0 for none;
    `groups` of equal size, of which `chosen_groups` are chosen by the sum of their `best` best; floats: `scale`,
    `least`, which is added to the sum of the chosen scores."""

    tokens: int = 8
    logits: int = 16
    logits_stride: int = 24
    width: int = 32
    gate: int = 40
    gate_stride: int = 48
    out: int = 56
    out_stride: int = 64
    chosen: int = 72
    renormalised: int = 80
    scale: int = 88
    sigmoid: int = 96
    correction: int = 104
    groups: int = 112
    chosen_groups: int = 120
    best: int = 128
    least: int = 136
    factors: int = 144


class AssignRow(NamedTuple):
    """`width`: experts; `lists`: int64 row numbers, `size` bytes for each expert; `counts`: an int64 for each; `out`:
    rows of `columns` that become zeros."""

    tokens: int = 8
    shares: int = 16
    shares_stride: int = 24
    width: int = 32
    lists: int = 40
    size: int = 48
    counts: int = 56
    out: int = 64
    out_stride: int = 72
    columns: int = 80


class ShareRow(NamedTuple):
    """`tokens`: of the expert; `rows`: the address of their int64 row numbers; `shares`: of the expert in row 0."""

    tokens: int = 8
    source: int = 16
    source_stride: int = 24
    width: int = 32
    shares: int = 40
    shares_stride: int = 48
    out: int = 56
    out_stride: int = 64
    rows: int = 72


class BlendRow(NamedTuple):
    """`shares`: for each of the `parts` that change as many numbers as there are `sources`, 0 for none; `width`:
    numbers of a part; `total`: of the first part that changes; floats: `base`."""

    tokens: int = 8
    source: int = 16
    source_stride: int = 24
    shares: int = 32
    shares_stride: int = 40
    total: int = 48
    total_stride: int = 56
    width: int = 64
    sources: int = 72
    parts: int = 80
    base: int = 88


class RescaleRow(NamedTuple):
    """Floats: `least`."""

    tokens: int = 8
    buffer: int = 16
    stride: int = 24
    width: int = 32
    like: int = 40
    like_stride: int = 48
    like_width: int = 56
    least: int = 64


class XieluRow(NamedTuple):
    """Floats: `rise`, `fall`, `beta`."""

    tokens: int = 8
    source: int = 16
    source_stride: int = 24
    out: int = 32
    out_stride: int = 40
    width: int = 48
    rise: int = 56
    fall: int = 64
    beta: int = 72


BLEND, RESCALE, XIELU = BlendRow(), RescaleRow(), XieluRow()
ROUTE, SCORED, ASSIGN, SHARE = RouteRow(), ScoredRow(), AssignRow(), ShareRow()
NORM, ROPE, GATE, ELEMENTS, SELECT = NormRow(), RopeRow(), GateRow(), ElementsRow(), SelectRow()
TRANSFORM, ROUND, COPY = TransformRow(), RoundRow(), CopyRow()
