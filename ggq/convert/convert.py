"""Converting a checkpoint: plan, refuse what cannot work, quantize, write."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import ggq
from ggq.convert.calibrate.calibration import Calibration, check_calibration, make_calibration
from ggq.convert.mix.mix import rehearsal, solve_target
from ggq.convert.plan.choices import Choices, read_choices
from ggq.convert.plan.described import describe
from ggq.convert.plan.fingerprint import fingerprint
from ggq.convert.plan.plan import Plan, make_plan
from ggq.convert.plan.preflight import check_disk, check_output
from ggq.convert.plan.recipe_file import recipe_text
from ggq.convert.source.checkpoint import CONFIG, load_config
from ggq.convert.source.folder import Folder
from ggq.convert.source.hub import find_source
from ggq.convert.write.pipeline import Progress, write_tensors
from ggq.convert.write.report import Report, read_results
from ggq.engine.footprint import peak_memory
from ggq.errors import ConvertError, UsageError
from ggq.format import Writer
from ggq.format.paths import check_not_input
from ggq.models.metadata import to_metadata
from ggq.quant import scheme_name

if TYPE_CHECKING:
    from typing_extensions import Unpack

MOST_WORKERS = 1024


def plan(
    source: str | os.PathLike[str],
    *,
    calibration: str | os.PathLike[str] | None = None,
    statistics: str | os.PathLike[str] | None = None,
    told: Callable[[str], None] | None = None,
    check: Callable[[Plan], None] | None = None,
    **choices: Unpack[Choices],
) -> Plan:
    """Work out what `convert` would write, from the checkpoint's headers alone unless a target is to be solved for.

    Args:
        source: A folder, or ORG/NAME or ORG/NAME@REVISION on the Hugging Face hub.
        calibration: A text to measure sensitivity on where a target is to be solved for; random tokens without it.
        statistics: A file of them, which a preset chooses its method for.
        told: Called with what is being done while a target is solved for.
        check: Called with the plan, or before a target is solved for, which takes time, with one of the method asked
            for and some scheme. What it raises ends the planning.
        choices: Schemes and methods; see `ggq.convert.plan.choices.Choices`.

    Raises:
        GGQError: Whatever would make the conversion fail, as far as it shows before a weight is read.
    """
    wish = read_choices(choices, calibration is not None or statistics is not None)
    planned = make_plan(find_source(source, _check_config), wish.recipe)
    if check is not None:
        check(planned if wish.target is None else rehearsal(planned, wish.method))
    if wish.target is None:
        return planned
    return solve_target(planned, wish.target, wish.method, calibration, told)


def prepare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    *,
    calibration: str | os.PathLike[str] | None = None,
    calibration_tokens: int | None = None,
    calibration_context: int | None = None,
    statistics: str | os.PathLike[str] | None = None,
    force: bool = False,
    told: Callable[[str], None] | None = None,
    **choices: Unpack[Choices],
) -> tuple[Plan, Calibration | None]:
    """Plan a conversion and read what its methods calibrate on; what cannot work is refused before what takes time.

    Args:
        out: Where the result is to lie; None where it is not to be written.
        told: See `plan`; all others as for `convert`.

    Raises:
        GGQError: Whatever would make the conversion fail, as far as it shows before a weight is read.
    """

    def check(planned: Plan) -> None:
        if out is not None:
            check_not_input(out, calibration, statistics, choices.get("recipe"))
            check_output(planned, Path(out), force=force)
        check_calibration(planned, calibration, calibration_tokens, calibration_context, statistics)

    planned = plan(source, calibration=calibration, statistics=statistics, told=told, check=check, **choices)
    return planned, make_calibration(planned, calibration, calibration_tokens, calibration_context, statistics)


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    calibration: str | os.PathLike[str] | None = None,
    calibration_tokens: int | None = None,
    calibration_context: int | None = None,
    statistics: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    **choices: Unpack[Choices],
) -> Report:
    """Convert a Hugging Face checkpoint to one quantized file.

    Args:
        source: A folder, or ORG/NAME or ORG/NAME@REVISION on the Hugging Face hub.
        out: The file to write; until it is whole it is called OUT.partial.
        calibration: A text like those that the model will see, for methods that look at the inputs of matrices.
        calibration_tokens: How many of its tokens are used, evenly over its length; 16384 unless told.
        calibration_context: Tokens of a window of it; 512 unless told, or the model's context where that is shorter.
        statistics: A file that keeps what calibration found: made if it is missing, used in place of a text if not.
        workers: Threads; by default one per physical core. The result does not depend on it.
        resume: Go on from what an interrupted conversion of the same checkpoint with the same options has left.
        force: Replace an existing file.
        progress: Called with source bytes done, source bytes in all, and a tensor's name.
        choices: Schemes and methods, such as scheme="q4-g32"; see `ggq.convert.plan.choices.Choices`.

    Returns:
        What was written and how far it is from the original.

    Raises:
        GGQError: The checkpoint, an option or the place of the result cannot be used, or the disk is full.
    """
    threads = check_workers(workers)
    planned, calibrated = prepare(
        source,
        out,
        calibration=calibration,
        calibration_tokens=calibration_tokens,
        calibration_context=calibration_context,
        statistics=statistics,
        force=force,
        **choices,
    )
    return run(
        planned, Path(out), calibration=calibrated, workers=threads, resume=resume, force=force, progress=progress
    )


def run(
    planned: Plan,
    out: Path,
    *,
    calibration: Calibration | None = None,
    workers: int | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Carry out a plan; arguments as for `convert`, the calibration made by `make_calibration`."""
    threads = check_workers(workers)
    check_output(planned, out, force=force)
    check_disk(planned, out)
    start = time.perf_counter()
    writer = Writer(out, force=force, resume=resume, fingerprint=fingerprint(planned, calibration))
    try:
        with writer:
            finished = writer.finished
            for key, value in metadata(planned):
                writer.add_metadata(key, value)
            for name, data in planned.assets.items():
                writer.add_asset(name, data)
            write_tensors(planned, writer, threads, progress, calibration)
            digest = writer.finish()
    except ConvertError:  # the weights cannot be converted: there is nothing to go on from
        for path in (writer.partial, writer.journal):
            Path(path).unlink(missing_ok=True)
        raise
    seconds = time.perf_counter() - start
    read = sum(tensor.source_bytes for tensor in planned.tensors if tensor.name not in finished)
    return Report(
        path=out,
        digest=digest.hex(),
        file_bytes=out.stat().st_size,
        source_bytes=planned.source_bytes,
        weights=planned.weights,
        bits_per_weight=planned.bits_per_weight,
        seconds=seconds,
        megabytes_per_second=read / 1e6 / seconds,
        peak_memory=peak_memory(),
        workers=threads,
        resumed=len(finished),
        ignored=planned.ignored,
        tensors=read_results(out, planned),
    )


def check_workers(workers: int | None) -> int:
    """The number of threads to use.

    Raises:
        UsageError: Less than one, or more than any machine has use for.
    """
    if workers is None:
        from ggq_kernels.run.cores import physical_cores

        return min(physical_cores(), MOST_WORKERS)
    if not 1 <= workers <= MOST_WORKERS:
        raise UsageError(f"{workers} workers: 1 to {MOST_WORKERS} allowed")
    return workers


def metadata(planned: Plan) -> Iterator[tuple[str, bool | int | float | str | list[int] | list[str]]]:
    """The metadata of the result, in order (spec/metadata.md)."""
    yield "general.name", planned.source.name
    yield "general.source", planned.source.origin
    yield "general.producer", f"ggq {ggq.__version__}"
    yield from to_metadata(planned.model, planned.architecture).items()
    tokens = planned.tokens
    if tokens.bos is not None:
        yield "tokenizer.bos_id", tokens.bos
    if tokens.eos:
        yield "tokenizer.eos_ids", list(tokens.eos)
    if tokens.add_bos is not None:
        yield "tokenizer.add_bos", tokens.add_bos
    recipe = planned.recipe
    yield "quantization.scheme", scheme_name(recipe.scheme)
    yield "quantization.method", recipe.body_method
    yield "quantization.embedding", scheme_name(recipe.embedding)
    yield "quantization.recipe", recipe_text(recipe)
    yield "quantization.bits_per_weight", planned.bits_per_weight


def _check_config(folder: Path) -> None:
    """Refuse a model of an architecture that is not supported, from its config.json."""
    files = Folder(folder)
    config, path = load_config(files), files.path / CONFIG
    describe(config, path)
