"""Operations of inputs that each layer has for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggq.models.layers.layered import LayeredSpec, LayerInputs
from ggq.tape import ops as tape
from ggq.tape.program import Buffer

if TYPE_CHECKING:
    from ggq.models.build import Builder


def layer_inputs(build: Builder, spec: LayeredSpec, part: LayerInputs, hidden: Buffer) -> Buffer:
    """Append what makes the inputs of all layers of a token's embedding; their buffer."""
    width = part.width * len(spec.layers)
    inputs, product = Buffer("layer_inputs", width), Buffer("layer_product", width)
    table = build.weight("layer_inputs.embedding.weight", spec.vocabulary_size, width)
    build.ops.append(tape.Embed(table, inputs, part.table_scale * part.sum_scale))
    build.linear(hidden, {"layer_inputs.product": product}, set())
    build.ops.append(tape.SoftCap(product, 0.0, part.product_scale))
    build.norm(part.norm, "layer_inputs.norm", product, product, len(spec.layers))
    build.ops.append(tape.Add(product, inputs, part.sum_scale))
    return inputs


def take_input(build: Builder, role: str, number: int, part: LayerInputs, inputs: Buffer, hidden: Buffer) -> None:
    """Append how a layer's result, in place, takes its own inputs."""
    build.ops.append(tape.Add(gated_input(build, role, number, part, inputs, hidden), hidden))


def gated_input(build: Builder, role: str, number: int, part: LayerInputs, inputs: Buffer, hidden: Buffer) -> Buffer:
    """Append what a layer's own inputs, gated by its result, add to it; the buffer of that."""
    suffix = "_wanted" if hidden.rows == "wanted" else ""
    mine = Buffer("layer_input", part.width)
    build.ops.append(tape.Slice(inputs, mine, number * part.width))
    if suffix:
        mine = build.wanted(mine)
    gate, gated = (Buffer(f"layer_{name}{suffix}", part.width, hidden.rows) for name in ("gate", "gated"))
    added = Buffer("added" + suffix, hidden.width, hidden.rows)
    build.linear(hidden, {f"{role}.layer_input.gate": gate}, set())
    build.ops.append(tape.Gate(gate, mine, gated, part.activation))
    build.linear(gated, {f"{role}.layer_input.o": added}, set())
    return build.norm(part.post_norm, f"{role}.layer_input_post_norm", added, added)
