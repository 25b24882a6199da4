"""What an interrupted conversion has left: work that is done already, and tensors that must be those of the plan."""

from __future__ import annotations

import os
from pathlib import Path

from ggq.convert.plan.plan import Plan
from ggq.convert.write.stacked import file_tensors
from ggq.errors import UsageError
from ggq.format import Writer, open_reader, verify
from ggq.format.native.descriptor import encode_descriptor
from ggq.format.native.journal import finished_digest, read_journal

NOTES = {"source_dtype": str, "relative_rmse": float, "sqnr_db": float, "max_error": float}
"""Attributes that every converted tensor has."""


def may_be_done(out: Path) -> bool:
    """Whether a conversion was stopped after its file got its name and before its journal was removed."""
    real = os.path.realpath(out)
    return os.path.isfile(real) and not os.path.lexists(f"{real}.partial") and _finished(real) is not None


def _finished(real: str) -> bytes | None:
    return finished_digest(f"{real}.journal") if os.path.lexists(f"{real}.journal") else None


def done(out: Path, fingerprint: bytes) -> bytes | None:
    """The digest of a file that is the whole result already; its journal is removed then.

    Args:
        out: The result.
        fingerprint: Of the inputs and options that it must have been made from.

    Raises:
        ConvertError: It was made from others.
        FormatError: It is no whole ggq file.
    """
    if not may_be_done(out):
        return None
    real = os.path.realpath(out)
    saved = read_journal(f"{real}.journal", fingerprint)
    with open_reader(real) as reader:
        if saved is None or saved.finished != reader.digest or verify(reader):
            return None
    os.unlink(f"{real}.journal")
    return reader.digest


def check_resumed(plan: Plan, writer: Writer) -> None:
    """Refuse to go on from tensors that this plan would not have written.

    Raises:
        UsageError: A tensor of another name, shape, scheme or role, or without what a conversion notes of each.
    """
    planned = {tensor.name: tensor for tensor in file_tensors(plan)}
    for name, (shape, descriptor, attributes) in writer.restored().items():
        tensor = planned.get(name)
        fits = tensor is not None and (shape, descriptor, attributes.get("role")) == (
            tensor.shape,
            encode_descriptor(tensor.scheme),
            tensor.role,
        )
        if not fits or not all(type(attributes.get(key)) is kind for key, kind in NOTES.items()):
            problem = "the unfinished file holds a tensor that this conversion would not have written"
            fix = "run it without --resume to begin again"
            raise UsageError(problem, path=writer.partial, where=f"tensor {name}", fix=fix)
