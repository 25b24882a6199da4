"""The container: layout constants, metadata codec, reader, writer."""

from typing import TYPE_CHECKING, Any

from ggq.format.native.reader import Asset, Reader, Segment, TensorEntry, open_reader
from ggq.format.native.verify import Problem, verify
from ggq.format.scheme import Scheme

if TYPE_CHECKING:
    from ggq.format.native.edit import edit_metadata, repack
    from ggq.format.native.writer import Writer

__all__ = [
    "Asset",
    "Problem",
    "Reader",
    "Scheme",
    "Segment",
    "TensorEntry",
    "Writer",
    "edit_metadata",
    "open_reader",
    "repack",
    "verify",
]


def __getattr__(name: str) -> Any:
    """What writes is imported when it is asked for: a command that only looks starts sooner without it."""
    if name == "Writer":
        from ggq.format.native.writer import Writer

        return Writer
    if name in ("edit_metadata", "repack"):
        from ggq.format.native import edit

        return getattr(edit, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
