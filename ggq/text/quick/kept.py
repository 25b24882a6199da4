"""Vocabularies in their compact form, kept in the user's cache: made once for each tokenizer."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from blake3 import blake3

from ggq.text.quick.vocabulary import ARRAYS, Added, Vocabulary

FORM = 1
"""Of the files; another number is another file."""

DIGEST = 32


def find(identity: bytes) -> Vocabulary | None:
    """The vocabulary that was kept of a tokenizer; None where there is none, or one that somebody else may have put
    there, or a damaged one.

    Args:
        identity: Of the tokenizer; see `ggq.text.quick.tokenizer.Document`.
    """
    from ggq_kernels.code.trust import read_own, untrusted

    path = _path(identity)
    if path is None or not path.exists() or untrusted(path.parent):
        return None
    data = memoryview(read_own(path))
    if len(data) <= DIGEST or blake3(data[DIGEST:]).digest() != data[:DIGEST]:
        return None
    size = int.from_bytes(data[DIGEST : DIGEST + 8], "little")
    at = DIGEST + 8
    head = json.loads(bytes(data[at : at + size]))
    at += size
    arrays = {}
    for name, kind, count in head["arrays"]:
        arrays[name] = np.frombuffer(data, kind, count, at)
        at += arrays[name].nbytes
    added = tuple(Added(**item) for item in head["added"])
    return Vocabulary(settings=head["settings"], added=added, longest=head["longest"], **arrays)


def keep(identity: bytes, vocabulary: Vocabulary) -> None:
    """Keep a vocabulary; where that cannot be, it is made anew the next time.

    Args:
        identity: See `find`.
        vocabulary: What to keep.
    """
    from ggq_kernels.code.trust import make_folder

    path = _path(identity)
    if path is None:
        return
    arrays = [(name, getattr(vocabulary, name)) for name in ARRAYS]
    head = {
        "settings": vocabulary.settings,
        "added": [asdict(each) for each in vocabulary.added],
        "longest": vocabulary.longest,
        "arrays": [(name, array.dtype.str, array.size) for name, array in arrays],
    }
    text = json.dumps(head).encode()
    body = len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for _, array in arrays)
    with suppress(OSError):
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent)  # for this user alone, under a name that nobody can guess
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(blake3(body).digest() + body)
            os.replace(name, path)
        except OSError:
            os.unlink(name)


def _path(identity: bytes) -> Path | None:
    """Where a vocabulary is kept; None for a user without a folder."""
    from platformdirs import user_cache_dir

    try:
        return Path(user_cache_dir("ggq")).absolute() / "tokenizers" / f"compact-{FORM}-{identity.hex()}"
    except RuntimeError:
        return None
