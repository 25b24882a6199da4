"""`ggq run`: continue a text."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ggq.cli import generation as cli
from ggq.cli.compiling import announce_compiling, compile_seconds
from ggq.cli.generation import (
    ACTIVATIONS,
    ALLOW_LONGER,
    CACHE,
    CONTEXT,
    GREEDY,
    INTERPRETER,
    LARK,
    LORA,
    MAX_TOKENS,
    MIN_P,
    MODEL,
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
    read_text,
)
from ggq.cli.layout import remark
from ggq.cli.library.folder import model_file
from ggq.cli.output import print_json, progress
from ggq.cli.server.remote import run_remote
from ggq.errors import FormatError, UsageError
from ggq.format import open_reader, verify
from ggq.format.gguf.kind import is_gguf
from ggq.generate.loading import load
from ggq.generate.stream import Stream


def run(
    model_name: MODEL = None,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="[TEXT]", help="The text to continue; - reads standard input.", show_default=False),
    ] = None,
    prompt_option: Annotated[
        str | None, typer.Option("-p", "--prompt", metavar="TEXT", help="The same as an option.", show_default=False)
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="A file with the text to continue.")
    ] = None,
    server: SERVER = None,
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
    echo: Annotated[bool, typer.Option("--echo", help="Print the prompt first.")] = False,
    threads: THREADS = None,
    activations: ACTIVATIONS = "int8",
    cache: CACHE = None,
    lora: LORA = None,
    context: CONTEXT = None,
    allow_longer: ALLOW_LONGER = False,
    interpreter: INTERPRETER = "numba",
    check: Annotated[bool, typer.Option("--verify", help="Compare every byte with its digest first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document when the text is done.")] = False,
) -> None:
    """Continue a text.

    The text goes to standard output as it comes, the figures to standard error. Without TEXT, it is read from standard
    input. Of a checkpoint, or a name on the hub, a file is made once and kept: see `ggq pull`.

    Example:
        ggq run model.ggq "Once upon a time" -n 100
        ggq run HuggingFaceTB/SmolLM2-135M "Once upon a time"
        ggq run model.ggq "A point: " --schema '{"type": "object", "properties": {"x": {"type": "number"}}}'
        ggq run -p "Once upon a time" --server http://localhost:8080
        ggq run model.ggq --temperature 0.8 --top-p 0.95 --seed 1 < prompt.txt
    """
    options = cli.options(
        max_tokens, greedy, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop, schema, regex, lark
    )
    text = read_prompt(prompt, prompt_option, prompt_file)
    if server is not None:
        name = None if model_name is None else Path(model_name)
        run_remote(server, name, text, options, echo=echo, as_json=as_json)
        return
    path = model_file(cli.need_model(model_name))
    if check:
        verify_first(path)
    start, before = time.perf_counter(), compile_seconds(interpreter)
    announce_compiling(interpreter)
    with load(
        path,
        threads=threads,
        activations=activations,
        cache=cache,
        interpreter=interpreter,
        lora=lora or (),
        context=context,
        allow_longer=allow_longer,
    ) as model:
        compiled = compile_seconds(interpreter) - before
        loaded = time.perf_counter() - start - compiled
        stream = model.stream(text, **options)
        if echo and not as_json:
            cli.show(text)
        first = 0.0
        for piece in stream:
            first = first or time.perf_counter() - start
            if not as_json:
                cli.show(piece)
    if as_json:
        print_json(document(text, stream, compiled, loaded, first))
        return
    sys.stdout.write("\n")
    sys.stdout.flush()
    told = f"compiled for {compiled:.2f} s, " if compiled else ""
    remark(f"{cli.figures(stream.timing)}; {told}loaded in {loaded:.2f} s, first token after {first:.2f} s")


def read_prompt(given: str | None, option: str | None, file: Path | None) -> str:
    """The text from wherever it is given: an argument, an option, a file, standard input.

    Raises:
        UsageError: It is given twice or not at all, or is no UTF-8.
    """
    found = [each for each in (given, option, file) if each is not None]
    if len(found) > 1:
        raise UsageError("the text to continue is given twice", fix="give TEXT, or --prompt, or --file")
    if file is not None:
        return read_text(file)
    if found and found[0] != "-":
        return cli.text(str(found[0]))
    if not found and sys.stdin.isatty():
        raise UsageError("there is no text to continue", fix='give one: ggq run FILE "Once upon a time"')
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as problem:
        raise UsageError(f"standard input is not UTF-8 at byte {problem.start}") from None


def verify_first(path: Path) -> None:
    """Refuse a file of which not every byte is as it was written.

    Raises:
        FormatError: Some are not, or a GGUF file, which has no digests.
    """
    if is_gguf(path):
        raise UsageError(
            "a GGUF file has no digests", path=path, fix="convert it with `ggq convert`, or leave --verify"
        )
    with open_reader(path) as reader, progress("verifying") as advance:
        problems = verify(reader, advance)
    if problems:
        first = problems[0]
        raise FormatError(first.text, path=path, where=first.where, fix="download or convert it again")


def document(prompt: str, stream: Stream, compiled: float, loaded: float, first: float) -> dict[str, object]:
    """What --json prints."""
    answer, timing = stream.answer, stream.timing
    return {
        "prompt": prompt,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": len(answer.prompt),
        "generated_tokens": len(answer.tokens),
        "tokens": answer.tokens,
        "compile_s": compiled,
        "load_s": loaded,
        "first_token_s": first,
        "prefill_s": timing.prefill_seconds,
        "decode_s": timing.decode_seconds,
        "prefill_tok_s": cli.rate(timing.prefill_tokens, timing.prefill_seconds),
        "decode_tok_s": cli.rate(timing.decode_tokens, timing.decode_seconds),
    }
