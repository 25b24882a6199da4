"""`ggq train`: a checkpoint and a text in, a file of few bits out."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggq.cli.interrupts import interrupted
from ggq.cli.layout import pairs
from ggq.cli.options import command_options
from ggq.cli.output import print_json, printable, quantity, size
from ggq.train.extra import require_torch
from ggq.train.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from ggq.train.loop import Progress
    from ggq.train.session import Trained


@command_options(TrainOptions)
def train(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A checkpoint's folder, or ORG/NAME[@REVISION] on the hub.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.ggq", help="The file to write.", show_default=False)],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    **options: Any,
) -> int:
    """Train a checkpoint for few bits, with the quantizer in the loop, and write the result as a file.

    Needs the extra: pip install "ggq[train]". At 4 bits and more `ggq convert` does as well in seconds; at 2 bits,
    ternary and binary training pays. While it goes on, its state is kept in OUT.ggq.training: after Ctrl-C the same
    command with --resume goes on from there, and gives the same weights as if it had never been interrupted.

    Example:
        ggq train ./my-model my-model-q2.ggq --scheme q2-g64 --text corpus.txt
        ggq train ./my-model tiny.ggq --scheme ternary-g64 --method lsq --steps 2000 --text corpus.txt --distill 0.5
        ggq train ./my-model out.ggq --scheme q3m-g64 --text a.txt --text b.txt --out-checkpoint ./trained
    """
    require_torch()
    from ggq.train.session import run

    given = {name: value for name, value in options.items() if value is not None}
    TrainOptions(**given)
    try:
        with _telling() as tell:
            trained = run(source, out, **{**given, "progress": tell})
    except KeyboardInterrupt:
        return interrupted(f"{out}.training")
    if as_json:
        print_json(trained.document())
    else:
        _show(trained)
    return 0


def _show(trained: Trained) -> None:
    report = trained.report
    full = "" if math.isnan(trained.full) else f"; full precision {trained.full:.3f}"
    pairs(
        [
            ("file", printable(str(report.path))),
            ("digest", report.digest),
            ("size", f"{size(report.file_bytes)} from {size(report.source_bytes)}"),
            ("bits per weight", f"{report.bits_per_weight:.3f}"),
            ("perplexity", f"{trained.before:.3f} before, {trained.after:.3f} after{full} (windows held out)"),
            ("trained", f"{trained.steps} steps, {quantity(trained.tokens)} tokens of text"),
            ("time", f"{trained.seconds:.1f} s, {trained.cpu_seconds:.1f} s of processor time"),
        ]
    )


@contextmanager
def _telling() -> Iterator[Callable[[Progress], None]]:
    """Print a line for each score and for each layer; where somebody watches, a bar besides."""
    watched, last = sys.stderr.isatty(), ""

    def tell(progress: Progress) -> None:
        nonlocal last
        scored = not math.isnan(progress.perplexity)
        score = f", perplexity {progress.perplexity:.3f}" if scored else ""
        loss = "" if math.isnan(progress.loss) else f", loss {progress.loss:.4g}"
        text = f"{progress.phase}: step {progress.step} of {progress.steps}{loss}{score}"
        last = text
        if watched:
            print(f"\r\x1b[K{printable(text)}", end="\n" if scored else "", file=sys.stderr, flush=True)
        elif scored or progress.step == progress.steps:
            print(printable(text), file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if watched and last:
            print(file=sys.stderr)
