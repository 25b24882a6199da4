"""`ggq profile`: where the time of a prompt and of a token goes, operation by operation."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from ggq.cli.compiling import announce_compiling
from ggq.cli.generation import ACTIVATIONS, CACHE, FILE, THREADS
from ggq.cli.layout import table
from ggq.cli.output import print_json
from ggq.errors import UsageError
from ggq.generate.loading import load

if TYPE_CHECKING:
    from ggq.engine.profile import Limits, Share

SEED = 21
"""Of the random token ids."""
LONGEST_PROMPT = 512
"""Tokens that are computed together."""
CONTEXT = 512
"""Tokens before the one that is decoded, by default."""


def profile(
    file: FILE,
    prompt: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"Tokens of the prompt; {LONGEST_PROMPT} or the model's context.",
            min=1,
            max=LONGEST_PROMPT,
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"Tokens before the one that is decoded; {CONTEXT} or what the model's context leaves room for.",
            min=1,
        ),
    ] = None,
    repeat: Annotated[int, typer.Option(metavar="N", help="Passes; medians count.", min=1)] = 5,
    threads: THREADS = None,
    activations: ACTIVATIONS = "int8",
    cache: CACHE = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show where the time of a prompt and of one token goes.

    Every operation of the model is timed on its own, in a pass over a prompt and for one token after some context. The
    bytes that it reads and the products that it forms are held against what this machine reads and multiplies at most,
    measured in the same run.

    Example:
        ggq profile model.ggq
        ggq profile model.ggq --context 4096 --threads 1 --json
    """
    import ggq_kernels
    from ggq.engine.numba_executor import NumbaExecutor
    from ggq.engine.profile import shares, time_prompt, time_token

    announce_compiling()
    with load(file, threads=threads, activations=activations, cache=cache) as model:
        executor = model.executor
        assert isinstance(executor, NumbaExecutor)  # what `load` gives unless it is asked for the reference
        room = model.config.context_length
        prompt = min(LONGEST_PROMPT, room) if prompt is None else prompt
        context = max(1, min(CONTEXT, room - repeat - 2)) if context is None else context
        longest = max(prompt, context + repeat + 2)
        if longest > room:
            problem = f"{longest} tokens do not fit into the model's context of {room}"
            raise UsageError(problem, fix="give a smaller --prompt or --context")
        tokens = np.random.default_rng(SEED).integers(0, model.config.vocabulary_size, longest).astype(np.int32)
        limits = _limits(executor.threads)
        passes = {
            f"a prompt of {prompt} tokens": shares(
                executor.steps, time_prompt(executor, tokens[:prompt], repeat), prompt, limits
            ),
            f"one token after {context}": shares(
                executor.steps, time_token(executor, tokens[: context + 1], repeat), 1, limits
            ),
        }
        settings = {"isa": ggq_kernels.instruction_set(), "threads": executor.threads, "activations": activations}
    if as_json:
        listed = {title: [asdict(share) for share in found] for title, found in passes.items()}
        print_json({"file": str(file), **settings, **asdict(limits), "passes": listed})
        return
    for title, found in passes.items():
        _print(title, found)
    tiles = f", {limits.tile_gop_s:.0f} in tiles of bf16" if limits.tile_gop_s else ""
    print(
        f"{settings['threads']} threads, {settings['isa']}; this machine reads {limits.read_gb_s:.1f} GB/s "
        f"and multiplies {limits.integer_gop_s:.0f} GOP/s{tiles}"
    )


def _limits(threads: int) -> Limits:
    import ggq_kernels
    from ggq.engine.profile import Limits
    from ggq_kernels.run.calls import bf16_from

    read, peak = ggq_kernels.read_bandwidth(threads), ggq_kernels.integer_peak(threads)
    return Limits(read, peak, ggq_kernels.tile_peak(threads), bf16_from())


def _print(title: str, found: list[Share]) -> None:
    print(f"{title}: {sum(share.seconds for share in found) * 1e3:.2f} ms")
    rows = []
    for share in found:
        weights = share.read_gb_s > 0
        rows.append(
            (
                share.operation,
                str(share.count),
                f"{share.seconds * 1e3:.2f}",
                f"{share.share:.1%}",
                f"{share.read_gb_s:.1f}" if weights else "",
                f"{share.read_share:.0%}" if weights else "",
                f"{share.gop_s:.0f}" if weights else "",
                f"{share.peak_share:.0%}" if weights else "",
            )
        )
    table(("operation", "count", "ms", "share", "GB/s", "of limit", "GOP/s", "of limit"), rows, right=range(1, 8))
    print()
