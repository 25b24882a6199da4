"""Compare what ggq reads of packed matrices with what the programs that pack them say, bit for bit.

    python tools/check_packed.py

Needs torch, bitsandbytes and compressed-tensors beside ggq's own packages: NF4 with and without nested magnitudes, and
four bits with zero-points. Exits with 1 when a number differs.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ggq.convert.source.packed.find import find_packed
from ggq.convert.source.safetensors_header import SourceTensor, read_header

Case = tuple[str, dict[str, Any], dict[str, Any], Any]


def cases() -> Iterator[Case]:
    """A name, parts of a matrix "m", config.json and the numbers that the program has."""
    import torch
    from bitsandbytes import functional
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    torch.manual_seed(0)
    weights = torch.randn(64, 128) * 0.02
    for nested in (False, True):
        codes, state = functional.quantize_4bit(weights, blocksize=64, quant_type="nf4", compress_statistics=nested)
        parts = {f"m.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
        numbers = functional.dequantize_4bit(codes, state)
        said = {"quantization_config": {"quant_method": "bitsandbytes"}}
        yield f"nf4 {'nested' if nested else 'plain'}", {"m.weight": codes, **parts}, said, numbers
    scales = (torch.rand(64, 4) * 0.01 + 0.001).to(torch.float16)
    codes = torch.randint(-8, 8, (64, 128), dtype=torch.int8)
    zeros = torch.randint(-8, 8, (64, 4), dtype=torch.int8)
    parts = {
        "m.weight_packed": pack_to_int32(codes, 4),
        "m.weight_scale": scales,
        "m.weight_zero_point": pack_to_int32(zeros, 4, packed_dim=0).contiguous(),
        "m.weight_shape": torch.tensor([64, 128]),
    }
    wide = scales.float().repeat_interleave(32, 1)
    numbers = (codes.float() - zeros.float().repeat_interleave(32, 1)) * wide
    yield "compressed-tensors", parts, {"quantization_config": {"quant_method": "compressed-tensors"}}, numbers


def main() -> int:
    """Compare all cases; 1 when one differs."""
    from safetensors.torch import save_file

    wrong = 0
    for name, parts, config, numbers in cases():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            save_file(parts, path)
            tensors = {tensor.name: tensor for tensor in read_header(path, path).tensors}
            data = path.read_bytes()

            def read(tensor: SourceTensor, offset: int, memory: Any, data: bytes = data) -> None:
                memory[:] = np.frombuffer(data, np.uint8, len(memory), tensor.offset + offset)

            (found,) = find_packed(tensors, config, read)
            out = np.empty(found.shape, np.float32)
            found.rows(read, 0, out)
        same = np.array_equal(out, numbers.numpy())
        print(f"{name}: {found.label}, {'equal' if same else 'DIFFERENT'}")
        wrong += not same
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
