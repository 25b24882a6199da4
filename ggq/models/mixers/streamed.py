"""Operations of models whose row is several parallel ones (AltUp), with learned residuals (LAuReL)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ggq.models.layers.layered import StreamedSpec
from ggq.models.mixers.layered import gated_input
from ggq.models.mixers.mlp import mlp
from ggq.models.parts import Layer
from ggq.tape import ops as tape
from ggq.tape.program import Buffer

if TYPE_CHECKING:
    from ggq.models.build import Branch, Builder

Branches = Callable[["Builder", str, Any, Buffer], Sequence["Branch"]]
"""What appends a mixer up to its last matrices."""


def streams(build: Builder, spec: StreamedSpec, hidden: Buffer, inputs: Buffer, branches: Branches) -> Buffer:
    """Append all layers; the buffer of the mean of their streams, of the wanted rows alone."""
    rows = _spread(build, spec, hidden)
    for number in range(len(spec.layers)):
        rows = _layer(build, spec, number, rows, inputs, branches)
    return _gathered(build, spec, rows)


def _spread(build: Builder, spec: StreamedSpec, hidden: Buffer) -> Buffer:
    """The streams of a token's row."""
    rows = Buffer("streams_0", spec.streams * hidden.width)
    others = [Buffer(f"stream_{number}", hidden.width) for number in range(1, spec.streams)]
    build.linear(hidden, {f"altup.projections.{i}": out for i, out in enumerate(others)}, set())
    build.ops.append(tape.Copy(hidden, rows, 1, hidden.width, 0, 0, 0, 0))
    for number, other in enumerate(others, 1):
        build.ops.append(tape.Rescale(other, hidden, spec.least))
        build.ops.append(tape.Copy(other, rows, 1, hidden.width, 0, 0, number * hidden.width, 0, add=True))
    return rows


def _gathered(build: Builder, spec: StreamedSpec, rows: Buffer) -> Buffer:
    """The mean of the streams."""
    first, total = _part(build, rows, 0, "first", spec), _part(build, rows, 0, "gathered", spec)
    for number in range(1, spec.streams):
        other = _part(build, rows, number, "other", spec)
        made = Buffer("unembedded_wanted", other.width, rows.rows)
        build.linear(other, {f"altup.unembed.{number - 1}": made}, set())
        build.ops += [tape.Rescale(made, first, spec.least), tape.Add(made, total)]
    build.ops.append(tape.SoftCap(total, 0.0, 1 / spec.streams))
    return total


def _part(build: Builder, rows: Buffer, number: int, name: str, spec: StreamedSpec) -> Buffer:
    """Append taking one stream; its buffer."""
    out = Buffer(name + _suffix(rows), spec.hidden_size, rows.rows)
    build.ops.append(tape.Slice(rows, out, number * out.width))
    return out


def _layer(build: Builder, spec: StreamedSpec, number: int, rows: Buffer, inputs: Buffer, branches: Branches) -> Buffer:
    """Append a layer; the buffer of its streams, of the wanted rows alone behind the last one."""
    role, layer, width = f"layers.{number}", spec.layers[number], spec.hidden_size
    assert spec.inputs is not None
    shares = _told(build, spec, f"{role}.altup", "prediction", _part(build, rows, spec.active, "active", spec))
    predicted = Buffer(f"streams_{(number + 1) % 2}", rows.width)
    build.ops += [tape.Slice(rows, predicted, 0), tape.Blend(rows, shares, predicted, width)]
    row = _part(build, predicted, spec.active, "row", spec)
    row, predicted = _computed(build, spec, number, layer, row, predicted, branches)
    shares = _told(build, spec, f"{role}.altup", "correction", row)
    build.ops.append(tape.Add(_part(build, predicted, spec.active, "active", spec), row, -1.0))
    build.ops.append(tape.Blend(row, shares, predicted, width, base=1.0))
    met = _part(build, predicted, spec.active, "active", spec)
    if spec.output_scale:
        build.ops.append(tape.ScaleColumns(met, build.weight(f"{role}.altup.output_scale", width)))
    added = gated_input(build, role, number, spec.inputs, inputs, met)
    build.ops.append(tape.Blend(added, None, predicted, width, base=1.0, first=1))
    return predicted


def _told(build: Builder, spec: StreamedSpec, role: str, what: str, row: Buffer) -> Buffer:
    """Append the shares that a row's router gives; their buffer."""
    suffix, count = _suffix(row), spec.streams * (spec.streams if what == "prediction" else 1)
    normed, routed = Buffer("routed" + suffix, row.width, row.rows), Buffer("told" + suffix, spec.streams, row.rows)
    shares = Buffer(what + suffix, count, row.rows)
    build.norm(spec.stream_norm, f"{role}.router_norm", row, normed)
    build.linear(normed, {f"{role}.router": routed}, set())
    build.ops.append(tape.SoftCap(routed, 1.0, spec.router_scale))
    build.linear(routed, {f"{role}.{what}": shares}, set())
    return shares


def _computed(
    build: Builder, spec: StreamedSpec, number: int, layer: Layer, row: Buffer, predicted: Buffer, branches: Branches
) -> tuple[Buffer, Buffer]:
    """Append attention, LAuReL and the feed-forward of a row; its buffer and that of the streams, of the wanted rows
    alone behind the last layer."""
    role = f"layers.{number}"
    normed = build.norm(layer.mixer_norm, f"{role}.attention_norm", row, Buffer("normed", row.width))
    mixed = branches(build, role, layer.mixer, normed)
    if number == len(spec.layers) - 1:
        row, normed, predicted = (build.wanted(buffer) for buffer in (row, normed, predicted))
        mixed = [branch._replace(source=build.wanted(branch.source)) for branch in mixed]
    left = Buffer("laurel_left" + _suffix(row), spec.laurel_rank, row.rows)
    right, added = (Buffer(name + _suffix(row), row.width, row.rows) for name in ("laurel_right", "added"))
    build.linear(normed, {f"{role}.laurel.left": left}, set())
    build.linear(left, {f"{role}.laurel.right": right}, set())
    build.norm(spec.stream_norm, f"{role}.laurel_norm", right, right)
    for branch in mixed:
        build.linear(branch.source, {branch.matrix: added}, {branch.matrix} if branch.bias else set())
    build.norm(layer.mixer_post_norm, f"{role}.attention_post_norm", added, added)
    build.ops += [tape.Add(each, row) for each in (added, right, normed)]
    build.ops.append(tape.SoftCap(row, 0.0, spec.laurel_scale))
    out = Buffer("normed" + _suffix(row), row.width, row.rows)
    between = mlp(build, f"{role}.mlp", layer.mlp, build.norm(layer.feed_forward_norm, f"{role}.mlp_norm", row, out))
    build.linear(between, {f"{role}.mlp.down": added}, {f"{role}.mlp.down"} if layer.mlp.bias else set())
    build.norm(layer.feed_forward_post_norm, f"{role}.mlp_post_norm", added, added)
    build.ops.append(tape.Add(added, row))
    return row, predicted


def _suffix(buffer: Buffer) -> str:
    return "_wanted" if buffer.rows == "wanted" else ""
