"""The first use of a stranger's tokenizer, under a limit of time and memory, and every later failure as one of ours."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from ggq.errors import ModelError

MEMORY, MEMORY_TIMES = 128 << 20, 24
"""Bytes that a tokenizer may take, and how many times its file besides."""

SECONDS, BYTES_A_SECOND = 2, 4 << 20
"""Seconds of a processor that trying may take, besides one for so many bytes of the file."""

WHERE, FIX = "tokenizer.json", "use the tokenizer of another copy of the model, or give token ids from Python"

_tried: set[str] = set()


def try_tokenizer(data: bytes, path: str | os.PathLike[str] | None) -> None:
    """Try a tokenizer in a process of its own, once for each user; one that was tried before costs a digest.

    Args:
        data: tokenizer.json.
        path: The file that it comes from, for the messages.

    Raises:
        ModelError: It takes too much time or memory for ordinary texts, multiplies them, or makes the library panic.
    """
    digest = blake3(data).hexdigest()
    marker = _marker(digest)
    if digest in _tried or _is_ours(marker):
        _tried.add(digest)
        return
    seconds = SECONDS + len(data) // BYTES_A_SECOND
    request = {
        "tokenizer": data.decode("utf-8", "replace"),
        "memory": MEMORY + MEMORY_TIMES * len(data),
        "seconds": seconds,
        "path": sys.path,
    }
    script = Path(__file__).with_name("tokenizer_worker.py")
    quiet = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
    command = [sys.executable, "-I", "-S", os.fspath(script)]
    document = json.dumps(request).encode("ascii")
    try:
        done = subprocess.run(command, input=document, capture_output=True, timeout=5 * seconds, check=False, env=quiet)
    except subprocess.TimeoutExpired:
        raise _refusal(f"it takes more than {seconds} seconds for ordinary texts", path) from None
    except OSError:  # no process can be started here (a limit of processes, an unknown user): it is used untried
        return
    if done.returncode:
        raise _refusal("it was stopped for taking too much time or memory for ordinary texts", path)
    answer: dict[str, str] = json.loads(done.stdout)
    if answer:
        raise _refusal(answer["error"], path)
    _tried.add(digest)
    _keep(marker)


def _refusal(problem: str, path: str | os.PathLike[str] | None) -> ModelError:
    return ModelError(f"not a tokenizer that can be used: {problem[:300]}", path=path, where=WHERE, fix=FIX)


def _marker(digest: str) -> Path | None:
    """The empty file that says that a tokenizer was tried; None for a user without a folder."""
    from platformdirs import user_cache_dir

    try:
        return Path(user_cache_dir("ggq")) / "tokenizers" / f"2-{digest}"
    except RuntimeError:
        return None


def _is_ours(marker: Path | None) -> bool:
    try:
        status = os.lstat(marker) if marker is not None else None
    except OSError:
        return False
    mine = not hasattr(os, "geteuid") or (status is not None and status.st_uid == os.geteuid())
    return status is not None and stat.S_ISREG(status.st_mode) and mine


def _keep(marker: Path | None) -> None:
    if marker is None:
        return
    try:
        marker.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError:  # tried again the next time
        pass


@contextmanager
def library_errors(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """Every failure of the tokenizers library within the block, a panic too, as a ModelError.

    Args:
        path: The model's file, for the message.
    """
    try:
        yield
    except BaseException as problem:
        panic = type(problem).__name__ == "PanicException"
        if not panic and type(problem) is not Exception and not isinstance(problem, (OverflowError, TypeError)):
            raise
        text = f"the tokenizer fails on this text: {str(problem)[:200]}"
        raise ModelError(text, path=path, where=WHERE) from None
