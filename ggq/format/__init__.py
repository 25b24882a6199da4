"""The container: layout constants, metadata codec, reader, writer."""

from ggq.format.edit import edit_metadata, repack
from ggq.format.reader import Asset, Reader, Segment, TensorEntry, open_reader
from ggq.format.scheme import Scheme
from ggq.format.verify import Problem
from ggq.format.writer import Writer

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
]
