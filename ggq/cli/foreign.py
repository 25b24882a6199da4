"""What `ggq inspect` shows of a GGUF file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from ggq.cli.layout import pairs, table
from ggq.cli.output import one_line, print_json, printable, quantity, size
from ggq.errors import UsageError
from ggq.format.gguf.reader import GGUFReader


def inspect_gguf(path: Path, tensors: bool, metadata: str | None, as_json: bool) -> None:
    """Print a summary, one value, or a document; see `ggq inspect`.

    Args:
        path: The file; the first of a split model.
        tensors: List every tensor.
        metadata: Print this key's value alone.
        as_json: Print JSON.

    Raises:
        GGQError: The file cannot be read, or has no such key.
    """
    with GGUFReader(path) as reader:
        if metadata is not None:
            value = _value(reader, metadata)
            if as_json:
                print_json({metadata: value})
            elif isinstance(value, str):
                print("\n".join(map(printable, value.split("\n"))))
            else:
                print(one_line(value, whole=True))
        elif as_json:
            print_json(_document(reader, tensors))
        else:
            _print(reader, tensors)


def _value(reader: GGUFReader, key: str) -> Any:
    if key not in reader.metadata:
        near = difflib.get_close_matches(key, list(reader.metadata), n=3)
        fix = f"did you mean {', '.join(near)}?" if near else "`ggq inspect FILE` lists the keys"
        raise UsageError(f"no metadata key {key!r}", path=reader.path, fix=fix)
    return _plain(reader.metadata[key])


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _types(reader: GGUFReader) -> dict[str, tuple[int, int]]:
    """How many tensors there are of each type, and their bytes, the largest first."""
    found: dict[str, tuple[int, int]] = {}
    for tensor in reader.tensors.values():
        count, total = found.get(tensor.type_name, (0, 0))
        found[tensor.type_name] = count + 1, total + (tensor.bytes or 0)
    return dict(sorted(found.items(), key=lambda item: -item[1][1]))


def _bits(reader: GGUFReader) -> float | None:
    """Stored bits per number of the matrices; None where there are none, or a type is not known."""
    matrices = [tensor for tensor in reader.tensors.values() if len(tensor.shape) > 1]
    if not matrices or any(tensor.bytes is None for tensor in matrices):
        return None
    return 8 * sum(tensor.bytes or 0 for tensor in matrices) / sum(prod(tensor.shape) for tensor in matrices)


def _document(reader: GGUFReader, tensors: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "file": reader.path,
        "format": f"GGUF {reader.version}",
        "file_bytes": reader.size,
        "parameters": sum(prod(tensor.shape) for tensor in reader.tensors.values()),
        "bits_per_weight": _bits(reader),
        "schemes": {name: {"tensors": count, "bytes": n} for name, (count, n) in _types(reader).items()},
        "metadata": {key: _plain(reader.metadata[key]) for key in reader.metadata},
    }
    if tensors:
        found["tensors"] = [
            {"name": tensor.name, "shape": list(tensor.shape), "scheme": tensor.type_name, "bytes": tensor.bytes}
            for tensor in reader.tensors.values()
        ]
    return found


def _print(reader: GGUFReader, tensors: bool) -> None:
    keys, bits = reader.metadata, _bits(reader)
    parameters = sum(prod(tensor.shape) for tensor in reader.tensors.values())
    schemes = (f"{name}: {count} tensors, {size(total)}" for name, (count, total) in _types(reader).items())
    rows = [
        ("file", f"{printable(reader.path)}, {size(reader.size)}, GGUF version {reader.version}"),
        ("name", one_line(keys.get("general.name", "(none)"))),
        ("architecture", one_line(keys.get("general.architecture", "(unknown)"))),
        ("parameters", f"{quantity(parameters)} in {len(reader.tensors)} tensors"),
        ("bits per weight", "(unknown)" if bits is None else f"{bits:.2f}"),
        ("types", "; ".join(schemes) or "(none)"),
        ("tokenizer", _tokenizer(keys)),
        ("digest", "(a GGUF file has none)"),
    ]
    pairs(rows)
    print("\nmetadata")
    pairs([(f"  {printable(key)}", one_line(_plain(keys[key]))) for key in keys])
    if tensors:
        print()
        listed = [
            [
                printable(tensor.name),
                " x ".join(map(str, tensor.shape)),
                tensor.type_name,
                "?" if tensor.bytes is None else size(tensor.bytes),
            ]
            for tensor in reader.tensors.values()
        ]
        table(("tensor", "shape", "type", "size"), listed, right=(3,))


def _tokenizer(keys: Mapping[str, Any]) -> str:
    if "tokenizer.ggml.tokens" not in keys:
        return "(none)"
    kind, cut = keys.get("tokenizer.ggml.model", "?"), keys.get("tokenizer.ggml.pre", "default")
    return f"{one_line(kind)}, {one_line(cut)}, vocabulary {len(keys['tokenizer.ggml.tokens'])}"
