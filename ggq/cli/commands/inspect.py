"""`ggq inspect`: what a file holds, from its index alone."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Annotated, Any

import typer

from ggq.cli.foreign import inspect_gguf
from ggq.cli.layout import pairs, table
from ggq.cli.output import one_line, print_json, printable, quantity, size
from ggq.errors import UsageError
from ggq.format import Reader, TensorEntry, open_reader
from ggq.format.gguf.kind import is_gguf
from ggq.format.native.summary import Summary, scheme_label, summarize
from ggq.generate.inspection import document, stored_bytes

RECIPE = "quantization.recipe"
"""Where a file keeps the recipe that made it (spec/metadata.md)."""


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .ggq or GGUF file.", show_default=False)],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    metadata: Annotated[
        str | None,
        typer.Option("--metadata", metavar="KEY", help="Print one metadata value, whole.", show_default=False),
    ] = None,
    recipe: Annotated[
        bool, typer.Option("--recipe", help="Print the recipe that made the file, as TOML for `ggq convert --recipe`.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what a file holds, without reading its tensors.

    Long lists are abbreviated; --metadata prints one value whole. Control characters are printed as escapes.

    Example:
        ggq inspect model.ggq --tensors
        ggq inspect model.ggq --recipe > recipe.toml
        ggq inspect model.ggq --metadata tokenizer.eos_ids --json
    """
    if is_gguf(file):
        if recipe:
            raise UsageError("a GGUF file keeps no recipe", path=file)
        inspect_gguf(file, tensors, metadata, as_json)
        return
    with open_reader(file) as reader:
        if recipe:
            _print_value(reader, RECIPE, as_json)
        elif metadata is not None:
            _print_value(reader, metadata, as_json)
        elif as_json:
            print_json(document(reader, tensors))
        else:
            _print_summary(reader, summarize(reader))
            if tensors:
                _print_tensors(reader)


def _print_value(reader: Reader, key: str, as_json: bool) -> None:
    if key not in reader.metadata:
        import difflib

        near = difflib.get_close_matches(key, reader.metadata, n=3)
        fix = f"did you mean {', '.join(near)}?" if near else "`ggq inspect FILE` lists the keys"
        raise UsageError(f"no metadata key {key!r}", path=reader.path, fix=fix)
    value = reader.metadata[key]
    if as_json:
        print_json({key: value})
    elif isinstance(value, str):
        print("\n".join(map(printable, value.split("\n"))))  # a chat template keeps its lines
    else:
        print(one_line(value, whole=True))


def _print_summary(reader: Reader, summary: Summary) -> None:
    text = reader.metadata.get
    rows = [
        ("file", f"{printable(reader.path)}, {size(reader.size)}"),
        ("name", one_line(text("general.name", "(none)"))),
        ("architecture", _architecture(reader.metadata)),
        ("parameters", f"{quantity(summary.parameters)} in {len(reader.tensors)} tensors"),
        ("bits per weight", "(no matrices)" if summary.bits_per_weight is None else f"{summary.bits_per_weight:.2f}"),
        ("schemes", "; ".join(f"{name}: {n} tensors, {size(b)}" for name, (n, b) in summary.schemes.items())),
        ("tokenizer", _tokenizer(reader)),
        ("assets", ", ".join(f"{printable(name)} ({size(asset.size)})" for name, asset in reader.assets.items())),
        ("digest", reader.digest.hex()),
    ]
    pairs([(name, value or "(none)") for name, value in rows])
    print("\nmetadata")
    pairs([(f"  {printable(key)}", one_line(value)) for key, value in reader.metadata.items()])


def _architecture(metadata: Mapping[str, Any]) -> str:
    """The model in a line, from whatever keys are there."""
    layers = metadata.get("model.layers")
    count = [f"layers {len(layers)}"] if isinstance(layers, Sized) else []
    sizes = (
        ("hidden", "embedding.width"),
        ("feed-forward", "layer.0.feed_forward.width"),
        ("heads", "layer.0.mixer.heads"),
        ("key-value heads", "layer.0.mixer.kv_heads"),
        ("context", "context_length"),
    )
    parts = [f"{name} {one_line(metadata[f'model.{key}'])}" for name, key in sizes if f"model.{key}" in metadata]
    return ", ".join([one_line(metadata.get("model.architecture", "(unknown)")), *count, *parts])


def _tokenizer(reader: Reader) -> str:
    asset = reader.assets.get("tokenizer.json")
    if asset is None:
        return "(none)"
    keys = (
        ("vocabulary", "model.embedding.vocabulary_size"),
        ("first", "tokenizer.bos_id"),
        ("last", "tokenizer.eos_ids"),
    )
    return ", ".join(
        [
            "tokenizer.json",
            *(f"{name} {one_line(reader.metadata[key])}" for name, key in keys if key in reader.metadata),
        ]
    )


def _print_tensors(reader: Reader) -> None:
    print()
    rows = [
        [
            printable(tensor.name),
            " x ".join(map(str, tensor.shape)),
            scheme_label(tensor),
            size(stored_bytes(tensor)),
            _error(tensor),
            _done(tensor),
        ]
        for tensor in reader.tensors.values()
    ]
    table(("tensor", "shape", "scheme", "size", "relative error", "method"), rows, right=(3, 4))


def _error(tensor: TensorEntry) -> str:
    error = tensor.attributes.get("relative_rmse")
    return f"{error:.2%}" if isinstance(error, float) else ""


def _done(tensor: TensorEntry) -> str:
    """The method, and what its attributes tell besides (spec/metadata.md)."""
    text = {key: one_line(value) for key, value in tensor.attributes.items() if isinstance(value, str)}
    parts = [text.get("method", "")]
    if "transforms" in text and text["transforms"] not in parts[0]:
        parts.append(f"transforms {text['transforms']}")
    parts += [f"{text['folded']} folded"] if "folded" in text else []
    parts += [f"activations {text['activations']}"] if "activations" in text else []
    parts += [f"fell back: {text['fallback']}"] if "fallback" in text else []
    return ", ".join(part for part in parts if part)
