"""Tensors that nothing reads: left out, unless they say that the model is another one (S-13)."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod

import numpy as np

from ggq.convert.source.checkpoint import FLOATS, Checkpoint
from ggq.convert.source.safetensors_header import SourceTensor
from ggq.errors import ConvertError
from ggq.models.fields import shown

BUFFERS = re.compile(
    r"(?:.*\.)?(?:rotary_emb\.\w+|inv_freq|masked_bias|position_ids|[kqv]_scale|kv_scale|prob_scale|freqs_cis"
    r"|rope\.freqs|cos_cached|sin_cached|attn\.bias|attention\.bias|attn_mask|causal_mask|num_batches_tracked)",
    re.ASCII,
)
"""Names of constants that follow from config.json, and of scales of a cache in few bits."""

NORMS = re.compile(r"\w*(?:norm|ln_|position|pos_emb|embed)\w*", re.ASCII)
"""Modules beside the model's own that would take part in it."""

NAMES_SHOWN = 5
BLOCK = 1 << 20
"""Numbers that are looked at together."""


def leave_out(checkpoint: Checkpoint, known: set[str], whole: set[str]) -> list[str]:
    """Leave out the tensors that the architecture does not have.

    Args:
        checkpoint: What is left out is gone from it afterwards.
        known: Names of the tensors that are read, or known to mean nothing.
        whole: Names of all tensors that such a model can have.

    Returns:
        Their names.

    Raises:
        ConvertError: Some would change what the model computes: they lie in its layers and modules and are not zero.
    """
    extra = [tensor for name, tensor in checkpoint.tensors.items() if name not in known]
    modules, lists = modules_of(whole)
    changing = [tensor.name for tensor in extra if changes_model(checkpoint, tensor, modules, lists)]
    if changing:
        rest = f" and {len(changing) - NAMES_SHOWN} more" if len(changing) > NAMES_SHOWN else ""
        listed = ", ".join(shown(name) for name in changing[:NAMES_SHOWN])
        raise ConvertError(
            f"{len(changing)} tensors that the architecture does not have, and that would change it: {listed}{rest}",
            path=checkpoint.folder.path,
            fix="config.json may leave out a part of the model; --ignore REGEX leaves out tensors that mean nothing",
        )
    for tensor in extra:
        checkpoint.leave_out(tensor.name)
    return [tensor.name for tensor in extra]


def modules_of(names: set[str]) -> tuple[set[str], set[str]]:
    """The modules that tensors belong to, and the lists of layers among what they lie in."""
    modules = {name.rpartition(".")[0] for name in names}
    lists = set()
    for name in names:
        parts = name.split(".")
        number = next((index for index, part in enumerate(parts) if part.isdecimal()), 0)
        if number:
            lists.add(".".join(parts[:number]))
    return modules, lists


def changes_model(checkpoint: Checkpoint, tensor: SourceTensor, modules: set[str], lists: set[str]) -> bool:
    """Whether a tensor that nothing reads says that the model is another one."""
    name = tensor.name
    if BUFFERS.fullmatch(name) or not prod(tensor.shape):
        return False
    module, _, kind = name.rpartition(".")
    place, _, last = module.rpartition(".")
    inside = any(name.startswith(f"{part}.") for part in lists) or any(
        module == known or module.startswith(f"{known}.") for known in modules
    )
    beside = place in {part.rpartition(".")[0] for part in modules} and NORMS.fullmatch(last) is not None
    if not inside and not (beside and module):
        return False
    return (kind == "weight" and "norm" in last) or not is_zero(checkpoint, tensor)


def is_zero(checkpoint: Checkpoint, tensor: SourceTensor) -> bool:
    """Whether all numbers of a tensor are zero; whole numbers, which are masks or counts, count as such."""
    if tensor.dtype not in FLOATS:
        return not tensor.dtype.startswith("F")
    columns = tensor.shape[-1] if tensor.shape else 1
    rows, step = prod(tensor.shape) // columns, max(1, BLOCK // columns)
    flat = tensor if tensor.shape else replace(tensor, shape=(1,))
    for start in range(0, rows, step):
        block = checkpoint.read_rows(flat, start, min(rows, start + step))
        bits = block.view(f"u{block.itemsize}")
        if (bits & np.array((1 << (8 * block.itemsize - 1)) - 1, bits.dtype)).any():  # a sign alone is no number
            return False
    return True
