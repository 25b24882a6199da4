"""A model's program and the tensors it reads, from its parts alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ggq.models.layers.layered import LayeredSpec, StreamedSpec
from ggq.models.mixers import experts, latent, layered, recurrent, streamed
from ggq.models.mixers.mlp import mlp
from ggq.models.parts import (
    Attention,
    Experts,
    GatedAttention,
    GatedDelta,
    Head,
    Hybrid,
    KeyedAttention,
    LatentAttention,
    Layer,
    Mamba2,
    MixedExperts,
    ModelSpec,
    Norm,
    NormedAttention,
    SharedAttention,
    ShortConv,
    Stack,
    TemperedAttention,
    short_contexts,
)
from ggq.models.text.parts import TextEmbedding, TextSpec, VectorHead
from ggq.tape import ops as tape
from ggq.tape.caches import CacheSpec, KeyValueSpec
from ggq.tape.ops import Operation
from ggq.tape.program import Buffer, Inputs, Program

Shapes = dict[str, tuple[int, ...]]


def role_shapes(spec: Stack) -> Shapes:
    """The shape of every tensor that the model reads, by role, in the order in which a forward pass meets them."""
    return _build(spec)[1]


def build_program(spec: Stack) -> Program:
    """The operations of a model.

    After the last layer's mixer only the wanted rows go on, so a long prompt whose last logits alone are
    wanted does not pay for that layer's projections, its feed-forward and the output matrix.

    Args:
        spec: A checked model.

    Returns:
        The program; its tensors are those of `role_shapes`, except for those that a head makes a vector with.
    """
    return _build(spec)[0]


def _build(spec: Stack) -> tuple[Program, Shapes]:
    text = spec if isinstance(spec, TextSpec) else None
    build = Builder(causal=text is None or text.causal, normed_sums=text is not None and text.normed_sums)
    hidden = _embedding(build, spec)
    own = spec if isinstance(spec, LayeredSpec) else None
    more = layered.layer_inputs(build, own, own.inputs, hidden) if own and own.inputs else None
    if isinstance(spec, StreamedSpec) and more:
        hidden = streamed.streams(build, spec, hidden, more, _branches)
        name, result = _logits(build, spec, hidden)
        return Program(tuple(build.ops), inputs_of(spec), {name: result}, tuple(build.caches)), build.shapes
    for number, layer in enumerate(spec.layers):
        hidden = _layer(build, number, layer, hidden, last=number == len(spec.layers) - 1)
        if own and own.inputs and more:
            layered.take_input(build, f"layers.{number}", number, own.inputs, more, hidden)
        if own and own.layer_scales:
            build.ops.append(tape.Scale(hidden, build.weight(f"layers.{number}.scale", 1)))
    assert isinstance(spec, ModelSpec | TextSpec)
    name, result = _logits(build, spec, hidden) if isinstance(spec.head, Head) else _rows(build, spec.head, hidden)
    return Program(tuple(build.ops), inputs_of(spec), {name: result}, tuple(build.caches)), build.shapes


def inputs_of(spec: Stack) -> Inputs:
    """What a program of a model takes."""
    types = max(1, spec.embedding.types) if isinstance(spec, TextSpec) else 1
    return Inputs(spec.vocabulary_size, spec.context_length, types, max(short_contexts(spec), default=0))


def _embedding(build: Builder, spec: Stack) -> Buffer:
    """Append what makes a row of a token; its buffer."""
    embedding, hidden = spec.embedding, Buffer("hidden", spec.hidden_size)
    table = build.weight("embedding.weight", embedding.vocabulary_size, embedding.width)
    build.ops.append(tape.Embed(table, hidden, embedding.scale))
    if not isinstance(embedding, TextEmbedding):
        return hidden
    for by, count in {"position": embedding.positions, "type": embedding.types}.items():
        if count:
            out = Buffer(by, embedding.width)
            build.ops.append(tape.Embed(build.weight(f"{by}s.weight", count, embedding.width), out, by=by))
            build.ops.append(tape.Add(out, hidden))
    return build.norm(embedding.norm, "embedding_norm", hidden, hidden)


def _rows(build: Builder, head: VectorHead, hidden: Buffer) -> tuple[str, Buffer]:
    """Append what makes the rows that become a vector, and note the tensors of what follows."""
    result = build.norm(head.norm, "norm", hidden, Buffer("normed_wanted", hidden.width, "wanted"))
    width = result.width
    for name, part in {"dense": head.dense, "output": head.output}.items():
        if part is None:
            continue
        build.weight(f"{name}.weight", part.width, width)
        width, norm = part.width, part.norm
        there = {
            f"{name}.bias": part.bias,
            f"{name}_norm.weight": norm is not None and norm.weight,
            f"{name}_norm.bias": norm is not None and norm.bias,
        }
        for role in (role for role, has in there.items() if has):
            build.weight(role, width)
    return "hidden", result


def _logits(build: Builder, spec: ModelSpec | TextSpec, hidden: Buffer) -> tuple[str, Buffer]:
    """Append what makes logits."""
    embedding, head = spec.embedding, spec.head
    assert isinstance(head, Head)
    normed = build.norm(head.norm, "norm", hidden, Buffer("normed_wanted", embedding.width, "wanted"))
    logits = Buffer("logits", embedding.vocabulary_size, "wanted")
    matrix = "embedding.weight" if head.tied else build.weight("output.weight", logits.width, embedding.width)
    bias = build.weight("output.bias", logits.width) if head.bias else None
    build.ops.append(tape.Linear(normed, (matrix,), (bias,), (logits,)))
    if head.softcap or head.scale != 1:
        build.ops.append(tape.SoftCap(logits, head.softcap, head.scale))
    return "logits", logits


@dataclass
class Builder:
    """A program that grows: its operations, its caches and the shapes of the tensors that it reads."""

    ops: list[Operation] = field(default_factory=list)
    caches: list[CacheSpec] = field(default_factory=list)
    shapes: Shapes = field(default_factory=dict)
    causal: bool = True
    normed_sums: bool = False
    layer_caches: dict[str, int] = field(default_factory=dict)
    """Places of the caches of attention, by the layer's role."""

    def weight(self, role: str, *shape: int) -> str:
        """Note a tensor that is read; its role."""
        self.shapes[role] = shape
        return role

    def norm(
        self, part: Norm | None, role: str, source: Buffer, out: Buffer, heads: int = 1, *, own: bool = False
    ) -> Buffer:
        """Append a norm of a row's `heads` equal parts, each with weights of its own or all with the same; the buffer
        of its results, the source where there is none."""
        if part is None:
            return source
        width = source.width if own else source.width // heads
        weight = self.weight(f"{role}.weight", width) if part.weight else None
        bias = self.weight(f"{role}.bias", width) if part.bias else None
        self.ops.append(tape.Norm(source, weight, out, part.epsilon, part.kind, bias, heads, own))
        return out

    def linear(self, source: Buffer, outs: dict[str, Buffer], biased: set[str], add: bool = False) -> None:
        """Append the products with the matrices `NAME.weight`; those that are `biased` have `NAME.bias` too."""
        weights, biases = [], []
        for name, out in outs.items():
            weights.append(self.weight(f"{name}.weight", out.width, source.width))
            biases.append(self.weight(f"{name}.bias", out.width) if name in biased else None)
        self.ops.append(tape.Linear(source, tuple(weights), tuple(biases), tuple(outs.values()), add))

    def wanted(self, source: Buffer) -> Buffer:
        """Append the gathering of the wanted rows of a buffer."""
        out = Buffer(source.name + "_wanted", source.width, "wanted")
        self.ops.append(tape.Select(source, out))
        return out


def _layer(build: Builder, number: int, layer: Layer, hidden: Buffer, *, last: bool) -> Buffer:
    """Append a layer; the buffer of its results, of the wanted rows alone behind the last one."""
    role, mixer, feed_forward = f"layers.{number}", layer.mixer.role, layer.feed_forward
    normed = build.norm(layer.mixer_norm, f"{role}.{mixer}_norm", hidden, Buffer("normed", hidden.width))
    branches = _branches(build, role, layer.mixer, normed)
    shared = layer.parallel and layer.feed_forward_norm is None
    if last:
        same = normed is hidden
        hidden = build.wanted(hidden)
        branches = [branch._replace(source=build.wanted(branch.source)) for branch in branches]
        if shared:
            normed = hidden if same else build.wanted(normed)

    def add_mixed() -> None:
        _add(build, layer, branches, hidden, layer.mixer_post_norm, f"{role}.{mixer}_post_norm")

    if feed_forward is None or not layer.parallel:
        add_mixed()
    if feed_forward is None:
        return hidden
    inner = feed_forward.role
    if not shared:
        out = Buffer("normed" + _suffix(hidden), hidden.width, hidden.rows)
        normed = build.norm(layer.feed_forward_norm, f"{role}.{inner}_norm", hidden, out)
    if isinstance(feed_forward, Experts):
        result = (
            mixed(build, role, feed_forward, hidden, normed)
            if isinstance(feed_forward, MixedExperts)
            else experts.mixture(build, f"{role}.{inner}", feed_forward, normed)
        )
        if layer.parallel:
            add_mixed()
        build.norm(layer.feed_forward_post_norm, f"{role}.{inner}_post_norm", result, result)
        build.ops.append(tape.Add(result, hidden, layer.residual_scale))
        return hidden
    between = mlp(build, f"{role}.{inner}", feed_forward, normed)
    if layer.parallel:
        add_mixed()
    down = Branch(between, f"{role}.{inner}.down", feed_forward.bias)
    _add(build, layer, [down], hidden, layer.feed_forward_post_norm, f"{role}.{inner}_post_norm")
    return hidden


def mixed(build: Builder, role: str, part: MixedExperts, hidden: Buffer, normed: Buffer) -> Buffer:
    """Append experts beside a feed-forward without; the buffer of their sum."""
    suffix = _suffix(hidden)
    result, met, routed = (Buffer(name + suffix, hidden.width, hidden.rows) for name in ("mlp_result", "met", "routed"))
    between = mlp(build, f"{role}.mlp", part.mlp, normed)
    build.linear(between, {f"{role}.mlp.down": result}, {f"{role}.mlp.down"} if part.mlp.bias else set())
    build.norm(part.mlp_post_norm, f"{role}.mlp_result_norm", result, result)
    build.norm(part.router_norm, f"{role}.router_norm", hidden, routed)
    build.norm(part.experts_norm, f"{role}.experts_norm", hidden, met)
    mixture = experts.mixture(build, f"{role}.experts", part, met, routed)
    build.norm(part.experts_post_norm, f"{role}.experts_post_norm", mixture, mixture)
    build.ops.append(tape.Add(result, mixture))
    return mixture


class Branch(NamedTuple):
    """What a last matrix meets.

    Args:
        source: The buffer.
        matrix: The role of the matrix, without "weight".
        bias: Whether it has a bias.
    """

    source: Buffer
    matrix: str
    bias: bool


def _branches(build: Builder, role: str, mixer: Any, source: Buffer) -> list[Branch]:
    """Append a mixer, or those that are beside each other, up to their last matrices."""
    parts: list[Any] = [mixer.attention, mixer.scan] if isinstance(mixer, Hybrid) else [mixer]
    found = []
    for part in parts:
        place = f"{role}.{part.role}"
        found.append(Branch(MIXERS[type(part)](build, place, part, source), f"{place}.o", part.output_bias))
    return found


def _add(
    build: Builder, layer: Layer, branches: list[Branch], hidden: Buffer, post_norm: Norm | None, norm_role: str
) -> None:
    """Append the products with last matrices, the norm of their sum, and their addition to the row."""
    before = None if build.normed_sums else post_norm
    plain = before is None and layer.residual_scale == 1
    out = hidden if plain else Buffer("added" + _suffix(hidden), hidden.width, hidden.rows)
    for number, (source, matrix, bias) in enumerate(branches):
        build.linear(source, {matrix: out}, {matrix} if bias else set(), add=plain or number > 0)
    if not plain:
        build.norm(before, norm_role, out, out)
        build.ops.append(tape.Add(out, hidden, layer.residual_scale))
    if build.normed_sums:
        build.norm(post_norm, norm_role, hidden, hidden)


def _attention(build: Builder, role: str, part: Attention, source: Buffer) -> Buffer:
    """Append projections, norms, RoPE, cache and attention; the buffer that holds the heads' results."""
    query_width, key_width = part.heads * part.head_dim, part.kv_heads * part.head_dim
    query, key, value = Buffer("query", query_width), Buffer("key", key_width), Buffer("value", key_width)
    biases = {"q": part.query_bias, "k": part.key_bias, "v": part.value_bias}
    outs = {f"{role}.q": query, f"{role}.k": key, f"{role}.v": value}
    if isinstance(part, SharedAttention):
        return _shared_attention(build, role, part, source, query)
    if keys_are_values := isinstance(part, KeyedAttention) and part.values == "keys":
        del outs[f"{role}.v"]
    gate = Buffer("attention_gate", query_width)
    if isinstance(part, GatedAttention):
        outs[f"{role}.gate"], biases["gate"] = gate, part.query_bias
    build.linear(source, outs, {f"{role}.{name}" for name, there in biases.items() if there})
    if isinstance(part, KeyedAttention):
        made = key if keys_are_values else value
        build.norm(part.value_norm, f"{role}.v_norm", made, value, part.kv_heads)
        if keys_are_values and part.value_norm is None:
            build.ops.append(tape.Slice(key, value, 0))
    _turn(build, role, part, query, key)
    cache = len(build.caches)
    build.layer_caches[role.rsplit(".", 1)[0]] = cache
    build.caches.append(KeyValueSpec(part.kv_heads, part.head_dim, part.window))
    build.ops.append(tape.StoreKV(cache, key, value))
    out = _attend(build, role, part, query, cache)
    if isinstance(part, GatedAttention):
        build.ops.append(tape.Gate(gate, out, gated := Buffer("gated_attended", query_width), "sigmoid"))
        return gated
    if isinstance(part, NormedAttention):
        return build.norm(part.output_norm, f"{role}.o_norm", out, out)
    return out


def _shared_attention(build: Builder, role: str, part: SharedAttention, source: Buffer, query: Buffer) -> Buffer:
    """The same with the cache of another layer."""
    build.linear(source, {f"{role}.q": query}, {f"{role}.q"} if part.query_bias else set())
    _turn(build, role, part, query, None)
    return _attend(build, role, part, query, build.layer_caches[f"layers.{part.source}"])


def _attend(build: Builder, role: str, part: Attention, query: Buffer, cache: int) -> Buffer:
    """Append attention to a cache; the buffer of the heads' results."""
    out = Buffer("attended", query.width)
    sinks = build.weight(f"{role}.sinks", part.heads) if part.sinks else None
    shape = {"heads": part.heads, "kv_heads": part.kv_heads, "head_dim": part.head_dim, "scale": part.scale}
    more = {"window": part.window, "softcap": part.softcap, "sinks": sinks, "causal": build.causal}
    build.ops.append(tape.Attention(cache, query, out, **shape, **more))  # type: ignore[arg-type]
    return out


def _turn(build: Builder, role: str, part: Attention, query: Buffer, key: Buffer | None) -> None:
    """Append norms of queries and keys, and RoPE; without keys, those of queries alone."""

    def norms() -> None:
        build.norm(part.query_norm, f"{role}.q_norm", query, query, 1 if part.normed == "row" else part.heads)
        if key is not None:
            build.norm(part.key_norm, f"{role}.k_norm", key, key, 1 if part.normed == "row" else part.kv_heads)

    if part.normed != "turned":
        norms()
    if part.rope is not None:
        rotation = part.rope.rotation()
        grown = rotation
        if isinstance(part, TemperedAttention):
            grown = replace(rotation, growth=part.growth, period=part.period)
        build.ops.append(tape.Rope(query, part.heads, grown))
        if key is not None:
            build.ops.append(tape.Rope(key, part.kv_heads, rotation))
    if part.normed == "turned":
        norms()


MIXERS: dict[type, Callable[[Builder, str, Any, Buffer], Buffer]] = {
    Attention: _attention,
    GatedAttention: _attention,
    KeyedAttention: _attention,
    LatentAttention: latent.latent_attention,
    NormedAttention: _attention,
    SharedAttention: _attention,
    TemperedAttention: _attention,
    GatedDelta: recurrent.gated_delta,
    Mamba2: recurrent.mamba2,
    ShortConv: recurrent.short_conv,
}
"""What appends each kind of mixer; the buffer that its last matrix meets."""


def _suffix(buffer: Buffer) -> str:
    return "_wanted" if buffer.rows == "wanted" else ""
