"""Write a Hugging Face checkpoint with random weights and a working tokenizer, for timing and for tests: a Llama,
another model with attention (tools/dense_shapes.py), or one with states beside keys (tools/hybrid_shapes.py).

    python tools/make_model.py OUT --shape 1b

The same arguments give the same bytes. Memory stays around a hundred megabytes whatever the shape.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ggq.text.tokenizer_json import bpe, byte_level  # noqa: E402
from tools import dense_shapes, hybrid_shapes  # noqa: E402

SHAPES: dict[str, tuple[int, int, int, int, int, int]] = {
    "tiny": (64, 2, 4, 2, 176, 384),
    "135m": (576, 30, 9, 3, 1536, 49152),
    "0.5b": (896, 24, 14, 2, 4864, 151936),
    "1b": (2048, 16, 32, 8, 8192, 128256),
}
"""Hidden size, layers, heads, kv heads, feed-forward size, vocabulary."""

DTYPES = {"bf16": ("BF16", "bfloat16", 2), "f16": ("F16", "float16", 2), "f32": ("F32", "float32", 4)}
"""Safetensors name, torch name, bytes."""

POOL = 1 << 23
"""Weights that are drawn; a larger model repeats them from a random place on, since drawing costs more than writing."""

SPREAD = 0.02
"""Standard deviation of the weights."""

SPECIAL = ("<|begin|>", "<|end|>", "<|pad|>")
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
"""By how common they are in English, so that a small vocabulary begins with likely syllables."""


def make_model(
    out: Path,
    shape: str | tuple[int, int, int, int, int, int] = "1b",
    *,
    seed: int = 0,
    dtype: str = "bf16",
    tied: bool = True,
    shards: int = 1,
) -> None:
    """Write a checkpoint.

    Args:
        out: Folder to make.
        shape: A name of SHAPES, dense_shapes.SHAPES or hybrid_shapes.SHAPES, or the numbers of one of the former.
        seed: Of the weights.
        dtype: "bf16", "f16" or "f32".
        tied: Whether the embedding of a Llama is the output too, as it is of others; else there is an lm_head.weight.
        shards: Files that the weights are spread over.
    """
    others = [each for each in (dense_shapes, hybrid_shapes) if isinstance(shape, str) and shape in each.SHAPES]
    if others:
        hf = {**others[0].SHAPES[str(shape)], "torch_dtype": DTYPES[dtype][1]}
        shapes = others[0].tensors(hf)
    else:
        sizes = SHAPES[shape] if isinstance(shape, str) else shape
        hf, shapes = config(sizes, dtype, tied), tensors(sizes, tied)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", hf)
    write_json(out / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2})
    names = dict(zip(("bos_token", "eos_token", "pad_token"), SPECIAL))
    write_json(out / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})
    write_json(out / "tokenizer.json", tokenizer(hf["vocab_size"]), indent=None)
    write_weights(out, shapes, dtype, seed, shards)


def config(sizes: tuple[int, int, int, int, int, int], dtype: str, tied: bool) -> dict[str, Any]:
    """The config.json of such a model."""
    hidden, layers, heads, kv_heads, feed_forward, vocabulary = sizes
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": DTYPES[dtype][1],
    }


def tensors(sizes: tuple[int, int, int, int, int, int], tied: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors, in the order in which they are written."""
    hidden, layers, heads, kv_heads, feed_forward, vocabulary = sizes
    narrow = hidden // heads * kv_heads
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        block: dict[str, tuple[int, ...]] = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (narrow, hidden),
            "self_attn.v_proj": (narrow, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (feed_forward, hidden),
            "mlp.up_proj": (feed_forward, hidden),
            "mlp.down_proj": (hidden, feed_forward),
        }
        found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    found["model.norm.weight"] = (hidden,)
    if not tied:
        found["lm_head.weight"] = (vocabulary, hidden)
    return found


class Noise:
    """Random numbers of a type, without end: as many as a model has, up to POOL, and then those again.

    Args:
        seed: What they depend on.
        dtype: A name of DTYPES.
        total: How many the model has.
    """

    def __init__(self, seed: int, dtype: str, total: int) -> None:
        self.rng, self.dtype, self.place = np.random.default_rng(seed), dtype, 0
        self.pool = stored(self.draw(min(total, POOL)), dtype)

    def draw(self, count: int) -> NDArray[np.float32]:
        """Normal numbers around 0."""
        weights = self.rng.standard_normal(count, dtype=np.float32)
        weights *= np.float32(SPREAD)
        return weights

    def write(self, file: BinaryIO, shape: tuple[int, ...]) -> None:
        """Write a tensor: matrices are normal around 0, norms around 1."""
        left = prod(shape)
        if len(shape) == 1:
            file.write(stored(self.draw(left) + np.float32(1), self.dtype).data)
            return
        while left:
            part = self.pool[self.place : self.place + left]
            file.write(part.data)
            left -= part.size
            self.place += part.size
            if self.place == self.pool.size:
                self.place = int(self.rng.integers(self.pool.size // 2))


def write_weights(out: Path, shapes: dict[str, tuple[int, ...]], dtype: str, seed: int, shards: int) -> None:
    """Draw the weights and write them to one safetensors file, or to several with an index."""
    count = sum(map(prod, shapes.values()))
    noise = Noise(seed, dtype, count)
    parts = split(shapes, shards)
    if len(parts) == 1:
        write_safetensors(out / "model.safetensors", parts[0], dtype, noise)
        return
    places: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        write_safetensors(out / name, part, dtype, noise)
        places |= dict.fromkeys(part, name)
    size = count * DTYPES[dtype][2]
    write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})


def split(shapes: dict[str, tuple[int, ...]], shards: int) -> list[dict[str, tuple[int, ...]]]:
    """Tensors in order, in parts of about the same number of weights."""
    share, done = sum(map(prod, shapes.values())) / shards, 0.0
    parts: list[dict[str, tuple[int, ...]]] = [{} for _ in range(shards)]
    for name, shape in shapes.items():
        parts[min(int((done + prod(shape) / 2) / share), shards - 1)][name] = shape
        done += prod(shape)
    return [part for part in parts if part]


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str, noise: Noise) -> None:
    """One file: the header's length, the header, and the weights as they are drawn."""
    name, _, size = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor, shape in shapes.items():
        start, end = end, end + prod(shape) * size
        header[tensor] = {"dtype": name, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            noise.write(file, shape)


def stored(weights: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """float32 weights in the file's type; bf16, which NumPy lacks, rounded to nearest in integers."""
    if dtype == "bf16":
        bits = weights.view(np.uint32)
        bits += 0x7FFF + ((bits >> 16) & 1)
        return np.ascontiguousarray(bits.view(np.uint16)[1::2])
    return weights.astype(np.float16 if dtype == "f16" else np.float32)


def tokenizer(vocabulary: int) -> dict[str, Any]:
    """A byte-level BPE tokenizer of exactly this many tokens that encodes and decodes any text.

    Its tokens are the special ones, the 256 bytes, and then syllables: every token made so far with every letter behind
    it, first those that begin with a space.
    """
    alphabet = byte_letters()
    tokens = [*SPECIAL, *alphabet]
    if vocabulary < len(tokens):
        raise ValueError(f"a vocabulary of {vocabulary}: at least {len(tokens)} needed")
    merges: list[tuple[str, str]] = []
    for left, letter in syllables(alphabet[ord(" ")]):
        if len(tokens) == vocabulary:
            break
        tokens.append(left + letter)
        merges.append((left, letter))
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": token, **added} for number, token in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": byte_level(),
        "post_processor": template(),
        "decoder": byte_level(prefix=True),
        "model": bpe({token: number for number, token in enumerate(tokens)}, merges),
    }


def template() -> dict[str, Any]:
    """The post-processor that puts the first special token before a text."""
    begin = {"SpecialToken": {"id": SPECIAL[0], "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [begin, first],
        "pair": [begin, first, second],
        "special_tokens": {SPECIAL[0]: {"id": SPECIAL[0], "ids": [0], "tokens": [SPECIAL[0]]}},
    }


def byte_letters() -> list[str]:
    """The character that stands for each byte in byte-level BPE: itself where it prints, else one from 256 on."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def syllables(space: str) -> Iterator[tuple[str, str]]:
    """Pairs to merge, without end and without a repetition: breadth first, so that each left part is there before."""
    level: Sequence[str] = [space, *LETTERS]
    while True:
        pairs = [(left, letter) for left in level for letter in LETTERS]
        yield from pairs
        level = [left + letter for left, letter in pairs]


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=[*SHAPES, *dense_shapes.SHAPES, *hybrid_shapes.SHAPES], default="1b")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--untied", action="store_true", help="an output matrix of its own")
    parser.add_argument("--shards", type=int, default=1, help="safetensors files to spread the weights over")
    arguments = parser.parse_args()
    make_model(
        arguments.out,
        arguments.shape,
        seed=arguments.seed,
        dtype=arguments.dtype,
        tied=not arguments.untied,
        shards=arguments.shards,
    )


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
