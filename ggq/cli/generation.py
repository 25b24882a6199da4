"""What `ggq run` and `ggq chat` share: their options, printing text as it comes, the line of figures."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ggq.cli.output import printable
from ggq.errors import UsageError
from ggq.format.paths import open_text
from ggq.generate.generation import Timing
from ggq.generate.options import MAX_TOKENS as USUAL
from ggq.generate.options import Options

FILE = Annotated[Path, typer.Argument(metavar="FILE", help="A .ggq or GGUF file.", show_default=False)]
MODEL = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A .ggq or GGUF file, a kept model, a checkpoint's folder, ORG/NAME on the hub, or demo:; with --server "
        "the name of one of its models.",
        show_default=False,
    ),
]
MAX_TOKENS = Annotated[
    int | None,
    typer.Option(
        "-n",
        "--max-tokens",
        help=f"Tokens to generate at most; {USUAL} unless the model says so; -1: until the context is full.",
        min=-1,
    ),
]
GREEDY = Annotated[bool, typer.Option("--greedy", help="Take the most likely token, always.")]
TEMPERATURE = Annotated[
    float | None, typer.Option(help="Divide the logits by this; 0 is --greedy. Without it the model's own default.")
]
TOP_K = Annotated[int | None, typer.Option(help="Choose among this many most likely tokens; 0 for all.")]
TOP_P = Annotated[float | None, typer.Option(help="Choose among the fewest tokens that add up to this probability.")]
MIN_P = Annotated[float | None, typer.Option(help="Choose among tokens this times as likely as the likeliest.")]
PENALTY = Annotated[float | None, typer.Option(help="Make tokens that occurred less likely; 1 does nothing.")]
SEED = Annotated[int | None, typer.Option(help="The same text again for the same seed.")]
STOP = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="End before this text; may be repeated.")
]
SCHEMA = Annotated[
    str | None, typer.Option("--schema", metavar="FILE|JSON", help="Write JSON that fits this JSON schema.")
]
REGEX = Annotated[str | None, typer.Option("--regex", metavar="REGEX", help="Write what this matches as a whole.")]
LARK = Annotated[
    Path | None, typer.Option("--lark", metavar="FILE", help="Write a word of this grammar (llguidance's Lark).")
]
THREADS = Annotated[int | None, typer.Option(help="Threads; one for each core without it.", min=1)]
ACTIVATIONS = Annotated[str, typer.Option(help="int8 (fast) or float32 (exact).")]
CACHE = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="Floats of keys and values: f16, or f32 where they do not fit into f16; chosen by the model without it.",
        show_default=False,
    ),
]
INTERPRETER = Annotated[str, typer.Option(hidden=True)]

LORA = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FOLDER[=WEIGHT]",
        help="A LoRA adapter of PEFT, computed beside the model's matrices; may be repeated.",
        show_default=False,
    ),
]

CONTEXT = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Most tokens of a text; those that the model was made for without it.",
        min=1,
        show_default=False,
    ),
]
ALLOW_LONGER = Annotated[
    bool, typer.Option("--allow-longer", help="--context may be more than the model was made for.")
]

SERVER = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Let this server compute; GGQ_API_KEY is its key.", show_default=False),
]

LARGEST_COUNT = 1 << 31
"""Tokens that no context has."""

LARGEST_GRAMMAR = 4 << 20
"""Bytes of a schema or a grammar."""

JOINERS = "\u200c\u200d"
"""Invisible, and parts of words and emoji: they pass."""


def need_model(given: str | None) -> str:
    """The model to run.

    Raises:
        UsageError: There is none.
    """
    if given is None:
        raise UsageError("a model is needed", fix="name one, or a server with --server URL")
    return given


def options(
    max_tokens: int | None,
    greedy: bool,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float | None,
    seed: int | None,
    stop: list[str] | None,
    schema: str | None,
    regex: str | None,
    lark: Path | None,
) -> Options:
    """The engine's options from the command line's."""
    if greedy:
        if any(value is not None for value in (temperature, top_k, top_p, min_p, seed)):
            raise UsageError("--greedy takes the most likely token, so it cannot be combined with sampling options")
        temperature = 0.0
    return {
        "max_tokens": LARGEST_COUNT if max_tokens == -1 else max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": [text(each) for each in stop] if stop else None,
        "json_schema": None if schema is None else read_schema(schema),
        "regex": None if regex is None else text(regex),
        "lark": None if lark is None else read_text(lark),
    }


def read_schema(argument: str) -> str:
    """A JSON schema: JSON as it is, or what a file holds."""
    given = text(argument)
    return given if given.lstrip().startswith("{") else read_text(Path(argument))


def read_text(path: Path) -> str:
    """The text of a small file.

    Raises:
        UsageError: It is no UTF-8, or larger than LARGEST_GRAMMAR.
        GGQError: It cannot be read.
    """
    with open_text(path) as file:
        data = file.read(LARGEST_GRAMMAR + 1) or b""
    if len(data) > LARGEST_GRAMMAR:
        raise UsageError(f"more than {LARGEST_GRAMMAR} bytes", path=path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise UsageError(f"not UTF-8 at byte {problem.start}", path=path) from None


def text(argument: str) -> str:
    """An argument that is a text: UTF-8, whatever the locale is that Python has decoded it by."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument  # refused where it is used


def show(piece: str) -> None:
    """Print a piece of generated text at once; on a terminal, what would command it is escaped."""
    sys.stdout.write(escaped(piece) if sys.stdout.isatty() else piece)
    sys.stdout.flush()


def escaped(text: str) -> str:
    """A text without what would command a terminal."""
    return "".join(c if c in "\n\t" or c in JOINERS else printable(c) for c in text)


def rate(tokens: int, seconds: float) -> float:
    """Tokens per second; 0 when nothing was measured."""
    return tokens / seconds if seconds > 0 else 0.0


def figures(timing: Timing) -> str:
    """The speed of a generation in a few words."""
    prefill = rate(timing.prefill_tokens, timing.prefill_seconds)
    decode = rate(timing.decode_tokens, timing.decode_seconds)
    text = f"{timing.prefill_tokens} prompt tokens at {prefill:.1f} tok/s"
    return f"{text}, {timing.decode_tokens} more at {decode:.1f} tok/s" if timing.decode_tokens else text
