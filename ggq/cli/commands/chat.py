"""`ggq chat`: talk with a model that has a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ggq.cli import generation as cli
from ggq.cli.compiling import announce_compiling
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
)
from ggq.cli.library.folder import model_file
from ggq.cli.server.remote import RemoteModel
from ggq.cli.texts.conversation import Conversation, chosen_template
from ggq.generate.loading import load


def chat(
    model_name: MODEL = None,
    server: SERVER = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="How the model shall behave.")] = None,
    template: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="One of the model's named chat templates, or a file with one."),
    ] = None,
    session: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Go on with the conversation in a file, if it is there, and write it after each answer.",
            show_default=False,
        ),
    ] = None,
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
    lora: LORA = None,
    context: CONTEXT = None,
    allow_longer: ALLOW_LONGER = False,
    interpreter: INTERPRETER = "numba",
    verbose: Annotated[bool, typer.Option("--verbose", help="Tell the speed of each answer.")] = False,
) -> None:
    """Talk with a model that has a chat template.

    /help lists what else may be typed; /quit or Ctrl-D ends, Ctrl-C interrupts an answer. What is pasted is one
    message, and so is what stands between lines of three double quotes.

    Example:
        ggq chat model.ggq --system "Answer in one sentence."
        ggq chat model.ggq --session yesterday.json
        ggq chat HuggingFaceTB/SmolLM2-135M-Instruct
    """
    options = cli.options(
        max_tokens, greedy, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop, schema, regex, lark
    )
    instruction = None if system is None else cli.text(system)
    if server is not None:
        name = None if model_name is None else Path(model_name)
        Conversation(RemoteModel(server, name), instruction, options, verbose=verbose, session=session).talk()
        return
    path = model_file(cli.need_model(model_name))
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
        if template is not None:
            model.__dict__["chat_template"] = chosen_template(model, template)
        model.chat_template  # noqa: B018  refuse a model without one before anything is typed
        Conversation(model, instruction, options, verbose=verbose, session=session).talk()
