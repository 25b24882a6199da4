"""What a file is that is not a ggq file, from its first bytes."""

from __future__ import annotations

from ggq.format.native.layout import MAGIC

_STARTS = (
    (MAGIC, "a ggq file"),
    (b"GGUF", "a GGUF file"),
    (b"lmgg", "an old GGML file"),
    (b"tjgg", "an old GGML file"),
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself; fetch it with `git lfs pull`"),
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint"),
    (b"\x80\x02", "a Python pickle, perhaps a PyTorch checkpoint"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "gzip data; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd data; unpack it first"),
    (b"\x7fELF", "a program"),
)
_MAGIC_TEXT = b"GGQ"


def identify(head: bytes) -> str | None:
    """Names the kind of a foreign file from its first bytes, or returns None."""
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML page, perhaps an error message that was downloaded in its place"
    if text.startswith(b"{"):
        return "JSON text"
    if 0 < int.from_bytes(head[:8], "little") < 1 << 30 and head[8:9] == b"{":
        return "a safetensors file; make a ggq file of it with `ggq convert`"
    if _MAGIC_TEXT in head[1:16]:
        return "a ggq file behind or changed by other bytes, as a transfer in text mode leaves it"
    return None
