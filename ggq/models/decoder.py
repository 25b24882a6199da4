"""A decoder's program and the tensors it reads, from its ModelConfig alone."""

from __future__ import annotations

import math

from ggq.models.config import ModelConfig
from ggq.models.rope import frequencies
from ggq.tape.caches import KeyValueSpec
from ggq.tape.ops import Attention, Embed, Gate, Linear, Norm, Operation, Rope, Select, StoreKV
from ggq.tape.program import Buffer, Inputs, Program
from ggq.tape.rotation import Rotation


def role_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that the decoder reads, by role, in the order in which a forward pass meets them."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    block = (
        ("attention.q", query, hidden, config.query_bias),
        ("attention.k", key, hidden, config.query_bias),
        ("attention.v", key, hidden, config.query_bias),
        ("attention.o", hidden, query, config.output_bias),
        ("mlp.gate", inner, hidden, config.mlp_bias),
        ("mlp.up", inner, hidden, config.mlp_bias),
        ("mlp.down", hidden, inner, config.mlp_bias),
    )
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (config.vocabulary_size, hidden)}
    for layer in range(config.layers):
        shapes[f"layers.{layer}.attention_norm.weight"] = (hidden,)
        for name, rows, columns, bias in block:
            if name == "mlp.gate":
                shapes[f"layers.{layer}.mlp_norm.weight"] = (hidden,)
            shapes[f"layers.{layer}.{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"layers.{layer}.{name}.bias"] = (rows,)
    shapes["norm.weight"] = (hidden,)
    if not config.tied_embedding:
        shapes["output.weight"] = (config.vocabulary_size, hidden)
    return shapes


def build_program(config: ModelConfig) -> Program:
    """The operations of a decoder.

    After the last layer's attention only the wanted rows go on, so a long prompt whose last logits alone are
    wanted does not pay for that layer's projections, its feed-forward and the output matrix.

    Args:
        config: A checked config.

    Returns:
        The program; its tensors are those of `role_shapes`.
    """
    hidden = Buffer("hidden", config.hidden_size)
    ops: list[Operation] = [Embed("embedding.weight", hidden)]
    for layer in range(config.layers):
        attended = attention_ops(config, layer, hidden, ops)
        if layer == config.layers - 1:
            hidden, attended = select_wanted(hidden, ops), select_wanted(attended, ops)
        feed_forward_ops(config, layer, hidden, attended, ops)
    normed = Buffer("normed_wanted", config.hidden_size, "wanted")
    logits = Buffer("logits", config.vocabulary_size, "wanted")
    ops.append(Norm(hidden, "norm.weight", normed, config.norm_epsilon, config.norm))
    output = "embedding.weight" if config.tied_embedding else "output.weight"
    ops.append(Linear(normed, (output,), (None,), (logits,)))
    return Program(
        ops=tuple(ops),
        inputs=Inputs(config.vocabulary_size, config.context_length),
        outputs={"logits": logits},
        caches=(KeyValueSpec(config.kv_heads, config.head_dim),) * config.layers,
    )


def attention_ops(config: ModelConfig, layer: int, hidden: Buffer, ops: list[Operation]) -> Buffer:
    """Append a layer's norm, projections, RoPE, cache and attention; the buffer that holds the heads' results."""
    query_width, key_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
    normed, attended = Buffer("normed", config.hidden_size), Buffer("attended", query_width)
    query, key, value = Buffer("query", query_width), Buffer("key", key_width), Buffer("value", key_width)
    ops.append(Norm(hidden, f"layers.{layer}.attention_norm.weight", normed, config.norm_epsilon, config.norm))
    names = tuple(f"layers.{layer}.attention.{name}" for name in "qkv")
    ops.append(linear(normed, names, config.query_bias, (query, key, value)))
    rotation = Rotation(tuple(frequencies(config.rope, config.head_dim).tolist()), config.rope.layout)
    ops.append(Rope(query, config.heads, rotation))
    ops.append(Rope(key, config.kv_heads, rotation))
    ops.append(StoreKV(layer, key, value))
    sizes = config.heads, config.kv_heads, config.head_dim
    ops.append(Attention(layer, query, attended, *sizes, 1 / math.sqrt(config.head_dim)))
    return attended


def feed_forward_ops(config: ModelConfig, layer: int, hidden: Buffer, attended: Buffer, ops: list[Operation]) -> None:
    """Append a layer's output projection and feed-forward, both added to `hidden`."""
    rows, suffix = hidden.rows, "_wanted" if hidden.rows == "wanted" else ""
    normed = Buffer("normed" + suffix, config.hidden_size, rows)
    gate, up, gated = (Buffer(name + suffix, config.intermediate_size, rows) for name in ("gate", "up", "gated"))
    ops.append(linear(attended, (f"layers.{layer}.attention.o",), config.output_bias, (hidden,), add=True))
    ops.append(Norm(hidden, f"layers.{layer}.mlp_norm.weight", normed, config.norm_epsilon, config.norm))
    names = (f"layers.{layer}.mlp.gate", f"layers.{layer}.mlp.up")
    ops.append(linear(normed, names, config.mlp_bias, (gate, up)))
    ops.append(Gate(gate, up, gated, config.activation))
    ops.append(linear(gated, (f"layers.{layer}.mlp.down",), config.mlp_bias, (hidden,), add=True))


def linear(source: Buffer, names: tuple[str, ...], bias: bool, outs: tuple[Buffer, ...], add: bool = False) -> Linear:
    """A Linear op over the tensors NAME.weight and NAME.bias."""
    weights = tuple(f"{name}.weight" for name in names)
    biases = tuple(f"{name}.bias" if bias else None for name in names)
    return Linear(source, weights, biases, outs, add)


def select_wanted(source: Buffer, ops: list[Operation]) -> Buffer:
    """Append the gathering of the wanted rows of a buffer."""
    wanted = Buffer(source.name + "_wanted", source.width, "wanted")
    ops.append(Select(source, wanted))
    return wanted
