"""Small checkpoints on disk, whole and broken, for the tests of the converter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ggq.convert.convert import convert
from ggq.errors import GGQError
from tools.make_model import make_model

TEXT = "".join(f"def f{i}(a, b):\n    return a * {i} + b\n\n" for i in range(400))
"""Something to calibrate on."""

TINY = (32, 2, 4, 2, 44, 320)
"""Hidden size, layers, heads, kv heads, feed-forward size (no multiple of 16), vocabulary."""

UP = "model.layers.0.mlp.up_proj.weight"
"""One of its matrices."""


def tiny(folder: Path, **options: Any) -> Path:
    """A checkpoint of some 20,000 weights with two layers; options as for `make_model`."""
    make_model(folder, options.pop("shape", TINY), **options)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Set names of a JSON object in a file; None removes one."""
    value = json.loads(path.read_bytes())
    value.update(changes)
    path.write_text(json.dumps({name: item for name, item in value.items() if item is not None}), encoding="utf-8")


def read_safetensors(path: Path) -> tuple[dict[str, Any], bytearray]:
    """The header's object and the bytes behind it."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])


def write_safetensors(path: Path, header: Mapping[str, Any] | bytes, data: bytes | bytearray) -> None:
    """A file of this header, checked by nobody, and these bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def numbers(path: Path, name: str) -> NDArray[np.float32]:
    """A bf16, f16 or f32 tensor of a file as float32, read by other means than the converter's."""
    header, data = read_safetensors(path)
    start, end = header[name]["data_offsets"]
    raw = bytes(data[start:end])
    if header[name]["dtype"] == "BF16":
        found = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        found = np.frombuffer(raw, {"F16": "<f2", "F32": "<f4"}[header[name]["dtype"]]).astype(np.float32)
    return found.reshape(header[name]["shape"])


def replace_tensors(path: Path, changes: Mapping[str, NDArray[Any] | None]) -> None:
    """Write a file anew with other tensors (float32 or float16; None removes one), the rest as it was."""
    header, data = read_safetensors(path)
    header.pop("__metadata__", None)
    parts = {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])]) for name, entry in header.items()
    }
    for name, array in changes.items():
        if array is None:
            del parts[name]
        else:
            dtype = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64"}[array.dtype.name]
            parts[name] = (dtype, list(array.shape), bytearray(array.tobytes()))
    entries: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape, raw) in parts.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(raw)]}
        end += len(raw)
    write_safetensors(path, entries, b"".join(bytes(raw) for _, _, raw in parts.values()))


def refused(folder: Path, message: str, kind: type[GGQError] = GGQError) -> GGQError:
    """Converting must fail with this message, in two lines at most, and leave nothing behind."""
    out = folder.parent / "out.ggq"
    with pytest.raises(kind, match=message) as caught:
        convert(folder, out)
    assert len(str(caught.value).splitlines()) <= 2 and len(str(caught.value)) < 1000
    assert str(caught.value).isprintable() or str(caught.value).replace("\n", "").isprintable()
    assert not [path for path in out.parent.iterdir() if path.name.startswith("out.ggq")]
    return caught.value
