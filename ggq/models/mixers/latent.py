"""Operations of latent attention: queries meet a latent row that all heads share, as keys and as values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggq.models.parts import LatentAttention
from ggq.tape import ops as tape
from ggq.tape.caches import KeyValueSpec
from ggq.tape.program import Buffer

if TYPE_CHECKING:
    from ggq.models.build import Builder


def latent_attention(build: Builder, role: str, part: LatentAttention, source: Buffer) -> Buffer:
    """Append latent attention; the buffer of the heads' results.

    A head's key is k_up @ latent, with one that turns behind it, and its value v_up @ latent. A query meets k_up first,
    so that what is cached of a token is one latent row and one turned key, whatever the heads are.
    """
    width, latent = part.rank + part.turned_dim, Buffer("latent", part.rank)
    turning, shared = Buffer("query_turned", part.heads * part.turned_dim), Buffer("key_turned", part.turned_dim)
    plain = Buffer("query_plain", part.heads * part.plain_dim)
    outs, biased = {f"{role}.latent": latent, f"{role}.key_turned": shared}, set[str]()
    if part.query_rank:
        outs[f"{role}.query_latent"] = narrow = Buffer("query_latent", part.query_rank)
        biased = set(outs) if part.bias else biased
        build.linear(source, outs, biased)
        queries = build.norm(part.norm, f"{role}.query_norm", narrow, narrow)
    else:
        build.linear(source, outs, set(outs) if part.bias else biased)
        queries = source
    build.linear(queries, {f"{role}.q_turned": turning, f"{role}.q_plain": plain}, set())
    build.norm(part.norm, f"{role}.latent_norm", latent, latent)
    rotation = part.rope.rotation()
    build.ops += [tape.Rope(turning, part.heads, rotation), tape.Rope(shared, 1, rotation)]
    key, value, query = Buffer("key", width), Buffer("value", width), Buffer("query", part.heads * width)
    build.ops.append(tape.Copy(latent, key, 1, part.rank, 0, 0, 0, 0))
    build.ops.append(tape.Copy(shared, key, 1, part.turned_dim, 0, 0, part.rank, 0, add=True))
    build.ops.append(tape.Copy(latent, value, 1, part.rank, 0, 0, 0, 0))
    build.ops.append(tape.Copy(turning, query, part.heads, part.turned_dim, 0, part.turned_dim, part.rank, width))
    for head in range(part.heads):
        mine, made = Buffer("query_head", part.plain_dim), Buffer("query_up", part.rank)
        build.ops.append(tape.Slice(plain, mine, head * part.plain_dim))
        build.linear(mine, {f"{role}.k_up.{head}": made}, set())
        build.ops.append(tape.Copy(made, query, 1, part.rank, 0, 0, head * width, 0, add=True))
    cache = len(build.caches)
    build.caches.append(KeyValueSpec(1, width))
    build.ops.append(tape.StoreKV(cache, key, value))
    found = Buffer("latent_attended", part.heads * width)
    build.ops.append(tape.Attention(cache, query, found, part.heads, 1, width, part.scale))
    out = Buffer("attended", part.heads * part.value_dim)
    for head in range(part.heads):
        mine, made = Buffer("value_head", part.rank), Buffer("value_up", part.value_dim)
        build.ops.append(tape.Slice(found, mine, head * width))
        build.linear(mine, {f"{role}.v_up.{head}": made}, set())
        build.ops.append(tape.Copy(made, out, 1, part.value_dim, 0, 0, head * part.value_dim, 0, add=head > 0))
    return out
