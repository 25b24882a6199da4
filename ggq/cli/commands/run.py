"""`ggq run`: continue a text."""

from __future__ import annotations

import sys
import time
from typing import Annotated

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
from ggq.cli.output import print_json
from ggq.cli.server.remote import run_remote
from ggq.errors import UsageError
from ggq.generate.loading import load
from ggq.generate.stream import Stream


def run(
    prompt: Annotated[
        str,
        typer.Option("-p", "--prompt", metavar="TEXT", help="The text to continue; - reads it from standard input."),
    ],
    file: FILE_OR_NAME = None,
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
    interpreter: INTERPRETER = "numba",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document when the text is done.")] = False,
) -> None:
    """Continue a text.

    The text goes to standard output as it comes, the figures to standard error.

    Example:
        ggq run model.ggq -p "Once upon a time" -n 100
        ggq run model.ggq -p "A point: " --schema '{"type": "object", "properties": {"x": {"type": "number"}}}'
        ggq run -p "Once upon a time" --server http://localhost:8080
        ggq run model.ggq -p - --temperature 0.8 --top-p 0.95 --seed 1 < prompt.txt
    """
    options = cli.options(
        max_tokens, greedy, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop, schema, regex, lark
    )
    text = read_prompt() if prompt == "-" else cli.text(prompt)
    if server is not None:
        run_remote(server, file, text, options, echo=echo, as_json=as_json)
        return
    file = cli.need_file(file)
    start = time.perf_counter()
    announce_compiling(interpreter)
    with load(file, threads=threads, activations=activations, cache=cache, interpreter=interpreter) as model:
        loaded = time.perf_counter() - start
        stream = model.stream(text, **options)
        if echo and not as_json:
            cli.show(text)
        first = 0.0
        for piece in stream:
            first = first or time.perf_counter() - start
            if not as_json:
                cli.show(piece)
    if as_json:
        print_json(document(text, stream, loaded, first))
        return
    sys.stdout.write("\n")
    sys.stdout.flush()
    print(f"{cli.figures(stream.timing)}; loaded in {loaded:.2f} s, first token after {first:.2f} s", file=sys.stderr)


def read_prompt() -> str:
    """Standard input as text."""
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as problem:
        raise UsageError(f"standard input is not UTF-8 at byte {problem.start}") from None


def document(prompt: str, stream: Stream, loaded: float, first: float) -> dict[str, object]:
    """What --json prints."""
    answer, timing = stream.answer, stream.timing
    return {
        "prompt": prompt,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": len(answer.prompt),
        "generated_tokens": len(answer.tokens),
        "tokens": answer.tokens,
        "load_s": loaded,
        "first_token_s": first,
        "prefill_s": timing.prefill_seconds,
        "decode_s": timing.decode_seconds,
        "prefill_tok_s": cli.rate(timing.prefill_tokens, timing.prefill_seconds),
        "decode_tok_s": cli.rate(timing.decode_tokens, timing.decode_seconds),
    }
