"""Running one side of a comparison in a process of its own, and the files that it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.make_model import SHAPES, make_model

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

LLAMA, MATRIX, GGUF, OWN = (str(HERE / f"{name}.py") for name in ("llama_peer", "matrix_peer", "gguf_peer", "own"))
GGML = {"q4-g32": "Q4_0", "q8-g32": "Q8_0"}
"""What a scheme is called in llama.cpp; both keep a tied embedding of Q4_0 at 6 bits."""


class Missing(Exception):
    """A peer that cannot be run, in its own words."""


@dataclass
class Bench:
    """What all measurements share.

    Args:
        folder: Where models are kept, and made when they are not there.
        peer: A Python with the peers.
        threads: Of all sides.
    """

    folder: Path
    peer: str
    threads: int
    _texts: dict[Path, str] = field(default_factory=dict)

    def own(self, *words: object) -> dict[str, Any]:
        """A run of own.py."""
        return document([sys.executable, OWN, *map(str, words)])

    def ggq(self, *words: object) -> dict[str, Any]:
        """A run of the command ggq, which prints JSON."""
        return document([sys.executable, "-m", "ggq", *map(str, words)])

    def other(self, script: str, *words: object) -> dict[str, Any]:
        """A run of a peer's script."""
        try:
            return document([self.peer, script, *map(str, words)])
        except subprocess.CalledProcessError as error:
            last = str(error.stderr).strip().splitlines()[-1:] or ["no words"]
            raise Missing(last[0]) from None

    def checkpoint(self, shape: str) -> Path:
        """A checkpoint of random weights in bf16."""
        path = self.folder / f"model-{shape}"
        if not (path / "model.safetensors").exists():
            say(f"making {path}")
            make_model(path, shape)
        return path

    def quantized(self, shape: str, scheme: str) -> Path:
        """The same as a ggq file; made anew for each run, as the format may have changed."""
        path = self.folder / f"model-{shape}-{scheme}.ggq"
        if path not in self._texts:
            say(f"converting {path}")
            self.ggq("convert", self.checkpoint(shape), path, "--scheme", scheme, "--force", "--json")
            self._texts[path] = ""
        return path

    def gguf(self, shape: str, scheme: str = "") -> Path:
        """The same shape as a GGUF: F16, a type of llama.cpp's, or its type for a scheme."""
        kind = GGML.get(scheme, scheme or "F16")
        path = self.folder / f"model-{shape}-{kind}.gguf"
        if not path.exists():
            say(f"making {path}")
            part = path.with_suffix(".part")
            if scheme:
                self.other(LLAMA, "quantize", self.gguf(shape), part, self.threads, kind)
            elif shape in SHAPES:
                self.other(GGUF, part, *SHAPES[shape])
            else:
                self.ggq("export", self.quantized(shape, "f16"), part, "--format", "gguf", "--type", "f16", "--json")
            part.rename(path)
        return path

    def prompt(self, path: Path, tokens: int) -> str:
        """A text of so many tokens for this file."""
        if not self._texts.get(path):
            self._texts[path] = str(self.own("prompt", path, tokens)["text"])
        return self._texts[path]


def document(command: list[str]) -> dict[str, Any]:
    """The JSON that a command prints last, and the seconds that its process took.

    Raises:
        CalledProcessError: It failed; its words go with the error.
    """
    start = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=ROOT, env=own_path())
    seconds = time.perf_counter() - start
    if result.returncode:
        raise subprocess.CalledProcessError(result.returncode, command, result.stdout, result.stderr)
    text = result.stdout
    found: dict[str, Any] = json.loads(text[text.index("{\n") if "{\n" in text else text.index("{") :])
    return {**found, "process_s": seconds}


def first_word(command: list[str]) -> float:
    """Seconds from the start of a process to the first byte that it writes to standard output."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=ROOT, env=own_path()
    ) as process:
        assert process.stdout is not None
        byte = process.stdout.read(1)
        seconds = time.perf_counter() - start
        _, words = process.communicate()
        if process.returncode or not byte:
            raise subprocess.CalledProcessError(process.returncode, command, byte, words.decode(errors="replace"))
    return seconds


def own_path() -> dict[str, str]:
    """The environment, with this tree's packages first."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}


def warm(path: Path) -> None:
    """Read a file, so that it lies in the page cache."""
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(1 << 22)
        while file.readinto(buffer):
            pass


def say(text: str) -> None:
    """Tell how far it is, on standard error."""
    print(text, file=sys.stderr, flush=True)
