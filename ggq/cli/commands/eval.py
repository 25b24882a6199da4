"""`ggq eval`: how well a file predicts a text, and how far it is from a reference."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from ggq.cli.compiling import announce_compiling
from ggq.cli.generation import ACTIVATIONS, ALLOW_LONGER, CACHE, FILE, INTERPRETER, LORA, THREADS
from ggq.cli.layout import pairs
from ggq.cli.output import one_line, print_json, printable, progress
from ggq.evaluate.evaluate import evaluate
from ggq.evaluate.saved import TOP
from ggq.evaluate.text import read_text


def eval(
    file: FILE,
    text: Annotated[Path, typer.Option(metavar="FILE", help="The text, UTF-8.", show_default=False)],
    reference: Annotated[
        Path | None,
        typer.Option(metavar="REF", help="Compare with this .ggq file or file of --save-logits.", show_default=False),
    ] = None,
    save_logits: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Keep the result as a reference.", show_default=False)
    ] = None,
    top: Annotated[int, typer.Option(metavar="K", help="Likeliest tokens that --save-logits keeps.", min=1)] = TOP,
    context: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens of a window; 512 without it.", show_default=False)
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens from window to window, for our own rule or hf.", show_default=False),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="llama.cpp (the default) or hf (transformers).", show_default=False),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Only the text's first tokens.", show_default=False)
    ] = None,
    windows: Annotated[int | None, typer.Option(metavar="N", help="Only the first ones.", show_default=False)] = None,
    threads: THREADS = None,
    activations: ACTIVATIONS = "int8",
    cache: CACHE = None,
    lora: LORA = None,
    allow_longer: ALLOW_LONGER = False,
    interpreter: INTERPRETER = "numba",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file of logits.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Score a file on a text: perplexity, divergence from a reference.

    The text is cut into windows that lie side by side, and the second half of each is scored, as llama-perplexity does
    it (--recipe llama.cpp, the default). With --stride a window begins every so many tokens, and its last tokens are
    scored, half a window or the stride if that is less: with half the context every token counts. --recipe hf is the
    loop of transformers' documentation, with half the context as stride by default. Figures compare only at one
    context, stride, recipe, tokenizer and text; digests of text and tokens are in --json.

    A reference is the same model in full precision (`ggq convert --scheme f32`), or what --save-logits kept of it: the
    likeliest tokens of each place and what the rest has together. From such a file the KL divergence is a lower bound.

    Example:
        ggq eval model-q4.ggq --text valid.txt --reference model-f32.ggq
        ggq eval model-f32.ggq --text valid.txt --context 256 --save-logits model.logits
        ggq eval model-q4.ggq --text valid.txt --reference model.logits --json
    """
    content = read_text(text)
    announce_compiling(interpreter)
    with progress("scoring", "tokens") as advance:
        found = evaluate(
            file,
            content,
            text_name=text,
            reference=reference,
            save_logits=save_logits,
            top=top,
            context=context,
            stride=stride,
            recipe=recipe,
            tokens=tokens,
            windows=windows,
            threads=threads,
            activations=activations,
            cache=cache,
            interpreter=interpreter,
            lora=lora or (),
            allow_longer=allow_longer,
            force=force,
            progress=advance,
        )
    document = {**found.document(), "text": str(text)}
    if as_json:
        print_json(document)
        return
    _print(document)
    if save_logits is not None:
        again = f"ggq eval FILE --text {shlex.quote(str(text))} --reference {shlex.quote(str(save_logits))}"
        print(f"\nkept in {printable(str(save_logits))}: {printable(again)}")


def _print(found: dict[str, Any]) -> None:
    bits = found["bits_per_weight"]
    rows = [
        ("file", one_line(found["file"], whole=True)),
        ("bits per weight", "(no matrices)" if bits is None else f"{bits:.3f}"),
        ("perplexity", _within(found["perplexity"], found["perplexity_error"], ".4f")),
    ]
    if "mean_kld" in found:
        kept = found["reference_top"]
        bound = "" if kept is None else f", lower bound from the {kept} likeliest tokens"
        rows += [
            ("reference", _within(found["reference_perplexity"], found["reference_perplexity_error"], ".4f")),
            ("difference", _within(found["perplexity_difference"], found["perplexity_difference_error"], "+.4f")),
            ("KL divergence", f"mean {_within(found['mean_kld'], found['mean_kld_error'], '.5f')}{bound}"),
            ("", f"median {found['kld_median']:.5f}, 99 % {found['kld_p99']:.5f}, largest {found['kld_max']:.4f}"),
            ("same top token", f"{found['same_top']:.2%}"),
        ]
    recipe = f", recipe {found['recipe']}" if found["recipe"] else ""
    windows = f"{found['windows']} windows of {found['context']}, stride {found['stride']}{recipe}"
    rows.append(("scored", f"{found['tokens']} tokens in {windows}, in {found['seconds']:.1f} s"))
    rows.append(("text digest", found["text_digest"]))
    pairs(rows)


def _within(value: float, error: float, form: str) -> str:
    """A figure with its standard error."""
    return f"{value:{form}}" + ("" if math.isnan(error) else f" ± {error:{form.removeprefix('+')}}")
