"""What must hold before the first tensor is read: a place for the result, and room on its disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ggq.convert.plan.plan import Plan
from ggq.errors import ConvertError
from ggq.format.paths import check_place


def check_output(plan: Plan, out: Path, *, force: bool) -> None:
    """Refuse a result that has no place.

    Raises:
        UsageError: See `ggq.format.paths.check_place`.
        ConvertError: It lies in the checkpoint's folder and is not called NAME.ggq, as none of a checkpoint's files is.
    """
    real = Path(os.path.realpath(out))
    checkpoint = plan.checkpoint
    inside = checkpoint.one is None and real.is_relative_to(checkpoint.folder.real) and real.suffix != ".ggq"
    if inside or any(out.exists() and out.samefile(file.path) for file in checkpoint.files):
        raise ConvertError(
            "the result would lie inside its own input",
            path=out,
            fix="call it NAME.ggq, or write it beside the checkpoint's folder",
        )
    check_place(out, force=force)


def free_bytes(out: Path) -> int:
    """Bytes free where a result would lie; what an unfinished file takes up already counts as free."""
    real = Path(os.path.realpath(out))
    partial = real.with_name(real.name + ".partial")
    own = partial.is_file() and not partial.is_symlink()
    return shutil.disk_usage(real.parent).free + (partial.stat().st_size if own else 0)


def check_disk(plan: Plan, out: Path) -> None:
    """Refuse a disk with too little room.

    Raises:
        ConvertError: The bytes needed and those free.
    """
    free, needed = free_bytes(out), plan.file_bytes
    if needed > free:
        raise ConvertError(
            f"the disk has {free} bytes free, {needed} are needed",
            path=out,
            fix=f"free {needed - free} bytes, or write to another disk",
        )
