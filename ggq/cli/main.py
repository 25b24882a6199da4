"""The frame of the command line: which commands there are, and how their failures end."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable
from inspect import cleandoc
from typing import Annotated, Any, NamedTuple

import typer
from typer.main import get_command

import ggq
from ggq.cli.interrupts import INTERRUPTED, heed_interrupts
from ggq.cli.layout import example, fitted
from ggq.errors import GGQError, UsageError
from ggq.threads import all_startable

WIDEST_HELP, HELP_INDENT = 100, 4
VALUES = {"int": "N", "int range": "N", "float": "NUMBER", "float range": "NUMBER", "str": "TEXT", "path": "FILE"}
"""What the value of an option is called in help unless the option says it, by typer's name of its type."""
KEYWORD = re.compile(
    r"^(max_tokens|temperature|top_k|top_p|min_p|repetition_penalty|seed|stop|activations|cache|threads)(?= is )"
)
"""Keywords of Python's functions where a message begins with one: here they are options."""
ERROR, BROKEN_PIPE = 2, 141
"""Exit statuses besides 0 (done), 1 (verification failed) and INTERRUPTED."""


class Command(NamedTuple):
    """One command: the function of that name in the module, and its line in `ggq --help`."""

    name: str
    module: str
    help: str


COMMANDS = (
    Command("convert", "ggq.cli.commands.convert", "Turn a Hugging Face checkpoint into one quantized file."),
    Command("run", "ggq.cli.commands.run", "Continue a text."),
    Command("chat", "ggq.cli.commands.chat", "Talk with a model that has a chat template."),
    Command("serve", "ggq.cli.server.serve", "Answer programs that speak to OpenAI, Anthropic or llama-server."),
    Command("bench-serve", "ggq.cli.server.bench_serve", "Measure a server with several clients at once."),
    Command("pull", "ggq.cli.library.pull", "Convert a checkpoint into the folder of kept models."),
    Command("list", "ggq.cli.library.list", "List the models that are kept."),
    Command("rm", "ggq.cli.library.rm", "Remove kept models."),
    Command("embed", "ggq.cli.texts.embed", "Give vectors of texts, or score texts against a query."),
    Command("tokenize", "ggq.cli.texts.tokenize", "Give token ids of texts, or texts of token ids."),
    Command("inspect", "ggq.cli.commands.inspect", "Show what a file holds, without reading its tensors."),
    Command("verify", "ggq.cli.commands.verify", "Check every byte of a file and name what is damaged."),
    Command("edit", "ggq.cli.commands.edit", "Change metadata in place, whatever the file's size."),
    Command("repack", "ggq.cli.commands.repack", "Write a file anew without what edits left behind."),
    Command("eval", "ggq.cli.commands.eval", "Score a file on a text: perplexity, divergence from a reference."),
    Command("compare", "ggq.cli.commands.compare", "Show each tensor's error against another file or a checkpoint."),
    Command("train", "ggq.cli.training.train", "Train a checkpoint for 2 bits, ternary or binary (extra: ggq[train])."),
    Command("export", "ggq.cli.commands.export", "Write a file's tensors back as a checkpoint or a GGUF file."),
    Command("schemes", "ggq.cli.words.schemes", "List the schemes: how numbers may be stored."),
    Command("methods", "ggq.cli.words.methods", "List the methods: how codes and scales may be chosen."),
    Command("bench", "ggq.cli.commands.bench", "Measure loading, prefill and decoding."),
    Command("profile", "ggq.cli.commands.profile", "Show where the time of a prompt and of a token goes."),
    Command("warmup", "ggq.cli.commands.warmup", "Compile the kernels now instead of at the first run."),
    Command("completion", "ggq.cli.words.completion", "Print a script that completes commands in a shell."),
    Command("demo", "ggq.cli.commands.demo", "Convert, inspect, verify and run a small model that is included."),
)


MEANT = {
    **dict.fromkeys(("quantize", "quant", "import"), "convert"),
    **dict.fromkeys(("generate", "complete", "cli"), "run"),
    **dict.fromkeys(("info", "show", "dump", "metadata"), "inspect"),
    **dict.fromkeys(("perplexity", "ppl", "score", "evaluate"), "eval"),
    "ls": "list",
    "ps": "list",
    "download": "pull",
    "remove": "rm",
    "delete": "rm",
    "benchmark": "bench",
    "diff": "compare",
    "check": "verify",
    "set": "edit",
    "dequantize": "export",
}
"""Commands as other programs name them."""


WITHOUT_ARITHMETIC = (
    "inspect",
    "verify",
    "edit",
    "repack",
    "list",
    "rm",
    "schemes",
    "methods",
    "completion",
    "tokenize",
)
"""Commands that multiply no matrices."""


def main(args: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: What follows the program's name; by default the process's own arguments.

    Returns:
        The exit status: 0 done, 1 verification failed, 2 error, 130 interrupted, 141 when nobody reads the output.
    """
    arguments = sys.argv[1:] if args is None else args
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the process: nobody reads
            setattr(sys, name, open(os.devnull, "w"))
    if sys.stdin is None:  # closed likewise: there is nothing to read
        sys.stdin = open(os.devnull)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is no reason to fail
    return _status(functools.partial(_dispatch, arguments))


def _dispatch(arguments: list[str]) -> int:
    """Parse and run; only the module of the command that is named is imported."""
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,  # rich costs 0.1 s of start-up
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST_HELP},
    )
    app.callback(no_args_is_help=True)(_options)
    for command in COMMANDS:
        function = _load(command) if arguments[:1] == [command.name] else _listed_only
        app.command(command.name, help=_help(function), short_help=command.help)(function)
    commands = get_command(app)
    for command in getattr(commands, "commands", {}).values():
        name_values(command)
    try:
        status = commands.main(arguments, prog_name="ggq", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as problem:
        if not hasattr(problem, "format_message"):
            raise
        return _misused(problem)
    return status if isinstance(status, int) else 0


def _misused(problem: Any) -> int:
    """Say in two lines what is wrong with the arguments; without any, show the commands."""
    text = _pointed(str(problem.format_message()))
    if text.startswith("Usage:"):
        print(text, file=sys.stderr)
        return ERROR
    context = getattr(problem, "ctx", None)
    command = "ggq" if context is None else context.command_path
    _complain(f"error: {command}: {' '.join(text.split())}\n`{command} --help` tells how it is used")
    return ERROR


def _pointed(text: str) -> str:
    """The message with the command that is meant by a word of other programs."""
    for word, command in MEANT.items():
        if text.startswith(f"No such command {word!r}"):
            return f"No such command {word!r}. Did you mean {command!r}?"
    return text


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ggq {ggq.__version__}")
        raise typer.Exit()


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Quantized language models on the CPU: convert a checkpoint, look inside the file, run it.

    First steps: `ggq demo`. Help on one command: `ggq COMMAND --help`. GGQ_DEBUG=1 in the environment shows tracebacks.
    """


def _listed_only() -> None:
    """Stands in for the commands that were not named, so that they are listed and suggested but not imported."""


def _load(command: Command) -> Callable[..., None]:
    """The command's function, with its failures turned into an exit status."""
    if command.name in WITHOUT_ARITHMETIC or not all_startable():  # OpenBLAS interrupts whoever has too few threads
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # importing NumPy starts threads: 0.02 s of inspect's 0.25
    # First, and not somewhere deep inside the command's imports: where Python's frames just fill a piece of their
    # stack, every call on top maps and unmaps memory (CPython 3.11), and NumPy's types make thousands: 30 ms.
    importlib.import_module("numpy")
    function = getattr(importlib.import_module(command.module), command.name.replace("-", "_"))

    @functools.wraps(function)
    def guarded(*args: Any, **options: Any) -> None:
        heed_interrupts()
        gc.freeze()  # what was imported stays, and is not looked at again
        gc.set_threshold(20_000)
        status = _status(functools.partial(function, *args, **options))
        if status:
            raise typer.Exit(status)

    return guarded


def _help(function: Callable[..., None]) -> str:
    """A command's docstring; its examples keep their lines (a backspace tells typer not to wrap a paragraph)."""
    text, _, examples = cleandoc(function.__doc__ or "").partition("\n\nExample")
    if not examples:
        return text
    columns = min(shutil.get_terminal_size().columns, WIDEST_HELP) - HELP_INDENT
    return f"{text}\n\n\b\nExample{example(examples, columns)}"


def name_values(command: Any) -> None:
    """Give the values of options a name where typer would print a type: N for "<int range>"."""
    for parameter in command.params:
        if parameter.metavar is None and getattr(parameter.type, "name", "") in VALUES and not parameter.is_flag:
            parameter.metavar = VALUES[parameter.type.name]


def _status(call: Callable[[], int | None]) -> int:
    """What `call` returns as an exit status; every failure becomes a line on standard error, never a traceback."""
    debug = os.environ.get("GGQ_DEBUG", "") not in ("", "0")
    try:
        status = call()
        sys.stdout.flush()
        return status or 0
    except typer.Exit as end:
        return end.exit_code
    except BrokenPipeError:
        _silence()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except (GGQError, OSError, MemoryError) as problem:
        if debug:
            traceback.print_exc()
        _complain(f"error: {_text(problem)}")
        if _printing(problem):
            _silence()
        return ERROR
    except Exception as problem:
        if type(problem).__module__.split(".")[0] in ("typer", "click"):
            raise  # a usage error on its way to `_dispatch`, which prints it
        if debug:
            traceback.print_exc()
        if "can't start new thread" in str(problem):
            _complain(
                "error: the system lets this process start no more threads\n--threads 1 or --workers 1 needs none"
            )
            return ERROR
        first = next(iter(str(problem).splitlines()), "")
        _complain(f"error: unexpected {type(problem).__name__}: {first}\nplease report it with what GGQ_DEBUG=1 shows")
        return ERROR


def _text(problem: BaseException) -> str:
    """A failure in one line (a GGQError may have a second: what to do)."""
    if isinstance(problem, OSError) and problem.strerror:
        names = [os.fsdecode(name) for name in (problem.filename, problem.filename2) if isinstance(name, (str, bytes))]
        if _printing(problem):
            names = ["standard output"]
        return ": ".join([*names, problem.strerror])
    if isinstance(problem, UsageError):
        return KEYWORD.sub(lambda found: f"--{found[0].replace('_', '-')}", str(problem), count=1)
    if isinstance(problem, MemoryError):
        return f"not enough memory{f': {problem}' if str(problem) else ''}"
    return str(problem)


def _printing(problem: BaseException) -> bool:
    """Whether a failure is the system's, of `print` or `flush`: they have no frame of their own, so it seems to come
    from this package or from typer, which open no files."""
    frames = traceback.extract_tb(problem.__traceback__)
    unnamed = isinstance(problem, OSError) and bool(problem.errno) and problem.filename is None
    folders = os.path.dirname(__file__), os.path.dirname(typer.__file__)
    return unnamed and bool(frames) and frames[-1].filename.startswith(folders)


def _complain(text: str) -> None:
    """Print to standard error what came from a file or the system, without its control characters."""
    from ggq.cli.output import printable

    columns = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
    lines = [line for given in map(printable, text.splitlines()) for line in fitted(given, columns)]
    try:
        print("\n".join(lines), file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody reads; the exit status still tells


def _silence() -> None:
    """Send what is still buffered nowhere, or Python complains about the broken pipe or full disk while it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
