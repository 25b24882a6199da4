"""`ggq warmup`: compile the kernels now."""

from __future__ import annotations

from typing import Annotated

import typer

from ggq.cli.compiling import announce_compiling, refuse_what_cannot_be_kept
from ggq.cli.generation import ACTIVATIONS, CACHE
from ggq.cli.layout import paragraph
from ggq.cli.library.folder import model_file
from ggq.cli.output import printable


def warmup(
    model_name: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="MODEL",
            help="Only those that this model needs: a .ggq or GGUF file, or what else `ggq run` takes.",
            show_default=False,
        ),
    ] = None,
    activations: ACTIVATIONS = "int8",
    cache: CACHE = None,
) -> None:
    """Compile the kernels now instead of at the first run.

    Kernels are compiled for this machine's processor and kept in the user's cache folder; a change of ggq, numba or the
    processor makes it necessary again. Where everything is compiled already this takes a moment. All of them take
    minutes, those of one model seconds.

    Example:
        ggq warmup
        ggq warmup --for model.ggq
    """
    import ggq_kernels

    path = None if model_name is None else model_file(model_name)
    check_kept = refuse_what_cannot_be_kept()
    announce_compiling()
    if path is None:
        seconds, which = ggq_kernels.warmup(), f"the kernels for {ggq_kernels.instruction_set()}"
    else:
        from ggq.generate.loading import load

        before = ggq_kernels.compile_seconds()
        load(path, activations=activations, cache=cache).close()
        seconds = ggq_kernels.compile_seconds() - before
        which = f"the kernels for {printable(path.name)} on {ggq_kernels.instruction_set()}"
    check_kept()
    spent = f"after {seconds:.1f} s of compiling" if seconds else "and were so before"
    paragraph(f"{which} are ready {spent}")
