"""Rewrite a checkpoint into one that computes the same function with large activation outliers in a few channels.

    python tools/add_outliers.py MODEL OUT [--channels 8] [--factor 64] [--seed 0]

Large models have such channels by nature: a few inputs of every block are tens of times larger than the others, so that
rounding activations to 8 bits with one scale per token leaves the others too few codes. Small models do not; this makes
one of them. In the chosen channels, the same in all layers, the weights of each norm are multiplied by the factor and
the columns of the matrices that read it divided by it. The factor is a power of two, so both are exact (f16 tensors
become f32 where they must), and the new model computes what the old one does up to the rounding of sums.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.convert.source.checkpoint import FLOATS, Checkpoint
from ggq.errors import GGQError, UsageError
from ggq.models.registry import find_architecture
from ggq.quant.floats import from_float32, to_float32

READERS = {"attention_norm": ("attention.q", "attention.k", "attention.v"), "mlp_norm": ("mlp.gate", "mlp.up")}
"""The matrices of a layer that read each norm; the last is read by the output, where that is a matrix of its own."""

LARGEST = 1 << 20
"""Of factors: far beyond what any model has, and far from the ends of float32."""

NAMES = {kind: name for name, kind in FLOATS.items()}
"""safetensors' names of types by ours."""


def channels_of(hidden: int, count: int, seed: int) -> NDArray[np.int64]:
    """The channels that become outliers, ascending."""
    return np.sort(np.random.default_rng(seed).choice(hidden, count, replace=False))


def changes(roles: dict[str, str], layers: int) -> dict[str, bool]:
    """Names of the tensors to change: True for norms, which grow, False for matrices, whose columns shrink."""
    found: dict[str, bool] = {}
    for layer in range(layers):
        for norm, readers in READERS.items():
            found[roles[f"layers.{layer}.{norm}.weight"]] = True
            found.update({roles[f"layers.{layer}.{reader}.weight"]: False for reader in readers})
    if "output.weight" in roles:  # a tied output reads the last norm too, but its columns are the embedding's
        found[roles["norm.weight"]] = True
        found[roles["output.weight"]] = False
    return found


def scale(
    stored: NDArray[Any], dtype: str, channels: NDArray[np.int64], factor: float, name: str
) -> tuple[NDArray[Any], str]:
    """Stored numbers with some columns multiplied, and their type: f32 where the old one cannot hold them exactly."""
    values = to_float32(stored, dtype).copy()
    before = values[..., channels].copy()
    values[..., channels] *= np.float32(factor)
    for kind in (dtype, "f32"):
        out = from_float32(values, kind)
        if np.array_equal(to_float32(out, kind)[..., channels] / np.float32(factor), before):
            return out, kind
    raise GGQError("its weights are too large or too small for the factor", where=f"tensor {name}")


def add_outliers(source: Path, out: Path, *, channels: int = 8, factor: int = 64, seed: int = 0) -> NDArray[np.int64]:
    """Write the new checkpoint.

    Args:
        source: A checkpoint's folder.
        out: The folder to make.
        channels: How many channels become outliers.
        factor: How much larger they get, a power of two.
        seed: Chooses the channels.

    Returns:
        int64 (channels,): which ones.

    Raises:
        UsageError: An argument is out of range, or `out` exists.
        GGQError: The checkpoint cannot be read, or f32 cannot hold a product.
    """
    if factor < 1 or factor & (factor - 1) or factor > LARGEST:
        raise UsageError(f"the factor is {factor}, a power of two up to {LARGEST} expected")
    checkpoint = Checkpoint(source)
    architecture = find_architecture(checkpoint.config, source)
    model = architecture.config(checkpoint.config, source)
    if not 0 < channels <= model.hidden_size:
        raise UsageError(f"{channels} channels asked for, 1 to {model.hidden_size} possible")
    if out.exists():
        raise UsageError("exists already", path=out)
    roles = {spec.role: spec.name for spec in architecture.tensors(model) if spec.name in checkpoint.tensors}
    grows, chosen = changes(roles, len(model.layers)), channels_of(model.hidden_size, channels, seed)
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for name, tensor in checkpoint.tensors.items():
        dtype = tensor.dtype
        stored = checkpoint.read_rows(tensor, 0, int(np.prod(tensor.shape[:-1], dtype=np.int64)))
        if name in grows:
            step = float(factor) if grows[name] else 1 / factor
            stored, kind = scale(stored, FLOATS[tensor.dtype], chosen, step, name)
            dtype = NAMES[kind]
        tensors[name] = dtype, tensor.shape, stored.tobytes()
    partial = out.with_name(f"{out.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    try:
        write_safetensors(partial / "model.safetensors", tensors)
        for path in sorted(source.iterdir()):
            if path.is_file() and ".safetensors" not in path.name:
                shutil.copyfile(path, partial / path.name)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial)
        raise
    return chosen


def write_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """Write tensors, each its type, shape and bytes, one after the other behind their header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, data in tensors.values():
            file.write(data)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--factor", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        chosen = add_outliers(
            options.model, options.out, channels=options.channels, factor=options.factor, seed=options.seed
        )
    except (GGQError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: channels {', '.join(map(str, chosen))} times {options.factor}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
