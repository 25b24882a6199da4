"""Whether a checkpoint's weights are quantized already: config.json may say so of weights that are floats (S-7)."""

from __future__ import annotations

import re

from ggq.convert.source.checkpoint import CONFIG, FLOATS, Checkpoint
from ggq.errors import UnsupportedError

PARTS = re.compile(
    r".*\.(qweight|qzeros|scales|g_idx|weight_scale|weight_scale_inv|weight_scale_2|weight_zero_point|weight_packed"
    r"|weight_shape|weight_global_scale|input_scale|absmax|quant_map|nested_absmax|nested_quant_map|SCB|weight_format"
    r"|quant_state\.[A-Za-z0-9_]+|codebooks|codes|blocks|_blocks|_scales|w_bit|trellis|suh|svh)"
)
"""Names that the parts of a quantized matrix have: of GPTQ, AWQ, bitsandbytes, compressed tensors, FP8, AQLM ..."""


def check_not_quantized(checkpoint: Checkpoint) -> bool:
    """Refuse a checkpoint of quantized weights.

    Args:
        checkpoint: Its headers.

    Returns:
        Whether config.json says that they are quantized although all of them are floats: what is left of a training
        or a loading in few bits.

    Raises:
        UnsupportedError: They are, by the types and names of the tensors.
    """
    said = checkpoint.config.get("quantization_config") is not None
    signs = [
        name
        for name, tensor in checkpoint.tensors.items()
        if name not in checkpoint.packed
        if PARTS.fullmatch(name) or (name.endswith(".weight") and tensor.dtype not in (*FLOATS, "F64"))
    ]
    if said and signs:
        raise UnsupportedError(
            f"the weights of this checkpoint are quantized already (tensor {signs[0]})",
            path=checkpoint.folder.path / CONFIG,
            where="quantization_config",
            fix="convert the original checkpoint",
        )
    return said
