"""`ggq chat`: talk with a model that has a chat template."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from ggq.cli import generation as cli
from ggq.cli.compiling import announce_compiling
from ggq.cli.generation import (
    ACTIVATIONS,
    CACHE,
    FILE_OR_NAME,
    GREEDY,
    INTERPRETER,
    LARK,
    MAX_TOKENS,
    MIN_P,
    PENALTY,
    REGEX,
    SCHEMA,
    SEED,
    SERVER,
    STOP,
    TEMPERATURE,
    THREADS,
    TOP_K,
    TOP_P,
)
from ggq.cli.server.remote import RemoteModel, RemoteStream
from ggq.errors import UsageError
from ggq.generate.loading import load
from ggq.generate.model import Model
from ggq.generate.options import Options
from ggq.generate.stream import Stream
from ggq.text.template import Message

HELP = "/exit or Ctrl-D ends, /clear forgets the conversation, Ctrl-C interrupts an answer."


def chat(
    file: FILE_OR_NAME = None,
    server: SERVER = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="How the model shall behave.")] = None,
    max_tokens: MAX_TOKENS = None,
    greedy: GREEDY = False,
    temperature: TEMPERATURE = None,
    top_k: TOP_K = None,
    top_p: TOP_P = None,
    min_p: MIN_P = None,
    repetition_penalty: PENALTY = None,
    seed: SEED = None,
    stop: STOP = None,
    schema: SCHEMA = None,
    regex: REGEX = None,
    lark: LARK = None,
    threads: THREADS = None,
    activations: ACTIVATIONS = "int8",
    cache: CACHE = None,
    interpreter: INTERPRETER = "numba",
) -> None:
    """Talk with a model that has a chat template.

    /exit or Ctrl-D ends, /clear forgets the conversation, Ctrl-C interrupts an answer.

    Example:
        ggq chat model.ggq --system "Answer in one sentence."
    """
    options = cli.options(
        max_tokens, greedy, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop, schema, regex, lark
    )
    if server is not None:
        Conversation(RemoteModel(server, file), system if system is None else cli.text(system), options).talk()
        return
    file = cli.need_file(file)
    announce_compiling(interpreter)
    with load(file, threads=threads, activations=activations, cache=cache, interpreter=interpreter) as model:
        model.chat_template  # noqa: B018  refuse a model without one before anything is typed
        Conversation(model, system if system is None else cli.text(system), options).talk()


class Conversation:
    """The turns between a person and a model.

    Args:
        model: Answers.
        system: The message before all others, if any.
        options: How it answers.
    """

    def __init__(self, model: Model | RemoteModel, system: str | None, options: Options) -> None:
        self.model, self.options = model, options
        self.beginning: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self.beginning)
        self.memory: Any = model.remember()

    def talk(self) -> None:
        """Ask and answer until the person ends it."""
        if sys.stdin.isatty():
            print(HELP, file=sys.stderr)
        while (line := read_line()) is not None:
            if line == "/exit":
                break
            if line == "/clear":
                self.messages = list(self.beginning)
            elif line.startswith("/"):
                print(HELP, file=sys.stderr)
            elif line:
                self.turn(line)

    def turn(self, question: str) -> None:
        """One question and its answer; an answer cut off by Ctrl-C stays in the conversation as far as it came."""
        self.messages.append({"role": "user", "content": question})
        try:
            stream: Stream | RemoteStream = self.model.stream_chat(self.messages, self.memory, **self.options)
        except UsageError as problem:
            self.messages.pop()
            print(f"error: {problem}\n{HELP}", file=sys.stderr)
            return
        try:
            for piece in stream:
                cli.show(piece)
        except KeyboardInterrupt:
            stream.close()
        sys.stdout.write("\n")
        sys.stdout.flush()
        self.messages.append({"role": "assistant", "content": stream.answer.text})
        told = stream.figures if isinstance(stream, RemoteStream) else cli.figures(stream.timing)
        print(told, file=sys.stderr)


def read_line() -> str | None:
    """A line without the spaces around it; None at the end of the input."""
    try:
        import readline  # noqa: F401  line editing and history for input(), where there is a terminal
    except ImportError:
        pass
    while True:
        try:
            return input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            print(f"\n{HELP}", file=sys.stderr)
