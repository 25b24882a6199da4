"""`ggq demo`: the whole way from a checkpoint to text, with the small model that is included."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import ggq

CHECKPOINT = Path(ggq.__file__).parent / "demo"
"""A Llama of about a million parameters, trained on CPython's standard library."""

PROMPT = 'class Reader:\n    """Read lines from a file.'

STEPS: tuple[tuple[str, list[str]], ...] = (
    (
        "Convert the checkpoint: each matrix gets a scheme that suits it, all together take about 4.6 bits a weight",
        ["convert", "{source}", "{out}"],
    ),
    ("Look inside the file: this reads its index and no tensor", ["inspect", "{out}"]),
    ("Compare every byte with the digests in the file", ["verify", "{out}"]),
    (
        "Continue a text (the model has read nothing but Python's library); its kernels are compiled now, once",
        ["run", "{out}", "-p", PROMPT, "-n", "80", "--greedy", "--echo"],
    ),
    ("Measure its speed", ["bench", "{out}", "--prompt", "256"]),
)
"""What is done, and the command that does it."""

OWN_MODEL = """\
With a model of your own, a folder with config.json, tokenizer.json and *.safetensors or a name on the Hugging Face Hub:

  ggq convert FOLDER_OR_NAME model.ggq
  ggq run model.ggq -p "Once upon a time"
  ggq chat model.ggq"""


def demo() -> int:
    """Convert, inspect, verify and run a small model that is included.

    Everything happens in a temporary folder that is removed at the end.

    Example:
        ggq demo
    """
    from ggq.cli.main import main

    with tempfile.TemporaryDirectory(prefix="ggq-demo-") as folder:
        status = show(CHECKPOINT, Path(folder) / "demo.ggq", main)
    if status == 0:
        print(f"\n{OWN_MODEL}")
    return status


def show(source: Path, out: Path, main: Callable[[list[str]], int]) -> int:
    """Print and run the steps, each through the command line itself, up to the first that fails.

    Args:
        source: A checkpoint.
        out: The file to make.
        main: Runs a command, gives its exit status.

    Returns:
        0, or the exit status of the step that failed.
    """
    for number, (why, command) in enumerate(STEPS, 1):
        arguments = [part.format(source=source, out=out) if part.startswith("{") else part for part in command]
        print(f"{'' if number == 1 else chr(10)}{number}. {why}\n\n  $ ggq {shlex.join(arguments)}\n", flush=True)
        status = main(arguments)
        if status:
            print(f"step {number} of the demo, ggq {command[0]}, ended with status {status}", file=sys.stderr)
            return status
    return 0
