"""`ggq serve`: answer programs that speak to OpenAI, Anthropic or llama-server."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggq.cli.generation import ACTIVATIONS, ALLOW_LONGER, CACHE, CONTEXT, THREADS
from ggq.cli.library.folder import entries
from ggq.errors import UsageError
from ggq.format.paths import open_text
from ggq.serve.serve import make_settings

if TYPE_CHECKING:
    from ggq.serve.settings import Adapter

FILES = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...", help="Files, folders of files, names of `ggq list`, or NAME=FILE.", show_default=False
    ),
]


def serve(
    files: FILES,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.", min=0, max=65535)] = 8080,
    alias: Annotated[
        list[str] | None, typer.Option(metavar="ALIAS=NAME", help="One more name of a model; may be repeated.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[@MODEL]=FOLDER[=WEIGHT]",
            help="A LoRA adapter of PEFT that requests name; the same name again adds one more. May be repeated.",
        ),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keys, one a line; clients must have one of them.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name of this server; * for any. May be repeated.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Pages that may ask from a browser. May be repeated.")
    ] = None,
    cache_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of keys and values: 4G, 512M. What is left without it.")
    ] = None,
    share: Annotated[
        float, typer.Option(help="Of their rate that answers keep while prompts are read, above 0, at most 1.")
    ] = 0.5,
    parallel: Annotated[int, typer.Option(help="Sequences that are computed at once.", min=1)] = 64,
    queue: Annotated[int, typer.Option(help="Requests of a model that wait or run; more get 429.", min=1)] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.", min=0.1)] = 3600.0,
    idle: Annotated[float, typer.Option(help="Unload a model after so many seconds without a request.", min=0)] = 0.0,
    lazy: Annotated[bool, typer.Option("--lazy", help="Load models when they are asked for.")] = False,
    images: Annotated[str, typer.Option(help="refuse images, or mention to the model that one was there.")] = "refuse",
    web: Annotated[bool, typer.Option("--web/--no-web", help="The pages / and /status.")] = True,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="A certificate; with --tls-key.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key.")] = None,
    threads: THREADS = None,
    activations: ACTIVATIONS = "int8",
    cache: CACHE = None,
    context: CONTEXT = None,
    allow_longer: ALLOW_LONGER = False,
) -> None:
    """Answer programs that speak to OpenAI, Anthropic or llama-server.

    The first model is loaded at the start unless there are several or --lazy is given. A page to chat is at /.

    Example:
        ggq serve model.ggq
        ggq serve model.ggq --lora style=adapters/style
        ggq serve models/ --alias gpt-4o=qwen3-0.6b --key-file keys.txt --host 0.0.0.0 --allow-host chat.example
    """
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together")
    options: dict[str, Any] = {
        "aliases": dict(_pair(each, "--alias", "ALIAS=NAME") for each in alias or ()),
        "keys": [] if key_file is None else read_keys(key_file),
        "hosts": [host, *(allow_host or ())],
        "origins": list(allow_origin or ()),
        "cache_memory": None if cache_memory is None else size(cache_memory),
        "load": {
            "threads": threads,
            "activations": activations,
            "cache": cache,
            "context": context,
            "allow_longer": allow_longer,
        },
    }
    options.update(
        share=share, most_running=parallel, most_waiting=queue, timeout=timeout, idle=idle, images=images, web=web
    )
    models = named(files)
    settings = make_settings(models, adapters=adapters(lora or (), next(iter(models))), **options)
    from ggq.serve.server import log_to_stderr, run

    log_to_stderr()
    tls = None if tls_cert is None else (os.fspath(tls_cert), os.fspath(tls_key or ""))
    run(settings, host, port, load_first=not lazy and len(settings.models) == 1, tls=tls)


def named(files: list[str]) -> dict[str, Path]:
    """Files by name."""
    from ggq.serve.models import named_models

    found = named_models([_file(each) for each in files if "=" not in each or Path(each).exists()])
    for each in files:
        if "=" in each and not Path(each).exists():
            name, path = _pair(each, "FILE", "NAME=FILE")
            if name in found:
                raise UsageError(f"two models are named {name!r}")
            found[name] = _file(path)
    return found


def adapters(given: Iterable[str], first: str) -> dict[str, Adapter]:
    """Adapters by name.

    Args:
        given: NAME=FOLDER, NAME@MODEL=FOLDER=WEIGHT ...
        first: The model of those that name none.
    """
    from ggq.serve.settings import Adapter

    found: dict[str, Adapter] = {}
    for each in given:
        left, folder = _pair(each, "--lora", "NAME=FOLDER")
        name, _, model = left.partition("@")
        before = found.get(name, Adapter(model or first, ()))
        if model and model != before.model:
            raise UsageError(f"the adapters named {name!r} are of {before.model!r} and of {model!r}")
        found[name] = Adapter(before.model, (*before.folders, folder))
    return found


def _file(given: str) -> Path:
    """A file or folder of files, or the file of a model that `ggq list` names."""
    path = Path(given)
    return path if path.exists() else next((each for each in entries() if each.stem == given), path)


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    first, mark, second = text.partition("=")
    if not mark or not first or not second:
        raise UsageError(f"{option} is {text!r}, {form} is expected")
    return first, second


def read_keys(path: Path) -> list[str]:
    """The keys of a file: lines, without empty ones and those that begin with #.

    Raises:
        UsageError: There is none, or one is too short to be secret.
    """
    with open_text(path) as file:
        lines = (file.read(1 << 20) or b"").decode("utf-8", "replace").splitlines()
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise UsageError("there is no key in it", path=path)
    if any(len(key) < 8 for key in keys):
        raise UsageError("a key has at least 8 characters", path=path)
    return keys


def size(text: str) -> int:
    """Bytes: 4G, 512M, 1000000."""
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    number, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 0)
    try:
        found = int(float(number) * (1 << unit))
    except ValueError:
        found = 0
    if found < 1:
        raise UsageError(f"--cache-memory is {text!r}, a size such as 4G or 512M is expected")
    return found
