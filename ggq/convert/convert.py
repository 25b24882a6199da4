"""Converting a checkpoint: plan, refuse what cannot work, quantize, write."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import ggq
from ggq.convert.calibrate.calibration import Calibration, check_calibration, make_calibration
from ggq.convert.declare import takes_options
from ggq.convert.mix.encoders import with_sensitive
from ggq.convert.mix.mix import rehearsal, solve_target
from ggq.convert.options import MOST_WORKERS, Options, PlanOptions, RunOptions
from ggq.convert.plan.choices import keeping_packed, read_choices, without_target
from ggq.convert.plan.described import describe
from ggq.convert.plan.fingerprint import fingerprint
from ggq.convert.plan.generic import make_generic_plan
from ggq.convert.plan.plan import Plan, make_plan, with_recipe
from ggq.convert.plan.preflight import check_disk, check_output
from ggq.convert.plan.recipe import Recipe
from ggq.convert.plan.recipe_file import recipe_text
from ggq.convert.plan.taken import METHOD
from ggq.convert.source.checkpoint import CONFIG, load_config
from ggq.convert.source.folder import Folder
from ggq.convert.source.hub import find_source
from ggq.convert.write.pipeline import write_tensors
from ggq.convert.write.report import Report, read_results
from ggq.convert.write.resumed import check_resumed, done, may_be_done
from ggq.convert.write.stacked import file_tensors
from ggq.engine.footprint import peak_memory
from ggq.errors import ConvertError
from ggq.format import Writer
from ggq.format.gguf.kind import is_gguf
from ggq.format.native.values import Value
from ggq.format.paths import check_not_input
from ggq.models.metadata import to_metadata
from ggq.models.text.parts import TextSpec
from ggq.notebook import bar
from ggq.quant import scheme_name


@takes_options(PlanOptions)
def plan(source: str | os.PathLike[str], options: PlanOptions) -> Plan:
    """Work out what `convert` would write, from the checkpoint's headers alone unless a target is to be solved for.

    Args:
        source: A folder, or ORG/NAME or ORG/NAME@REVISION on the Hugging Face hub.
        {options}

    Raises:
        GGQError: Whatever would make the conversion fail, as far as it shows before a weight is read.
    """
    return make_solved_plan(source, options)


def make_solved_plan(
    source: str | os.PathLike[str], options: PlanOptions, check: Callable[[Plan], None] | None = None
) -> Plan:
    """The plan of `convert`, its target solved for.

    Args:
        source: See `convert`.
        options: See `convert`.
        check: Called with the plan or, before a target is solved for, which takes time, with one of the method asked
            for and some scheme. What it raises ends the planning.
    """
    wish = read_choices(options)
    links = options.follow_links
    ignore = options.ignore or ()
    if options.generic:
        found = find_source(source, lambda folder: None, weights=["*.safetensors"], offline=options.offline)
        planned = make_generic_plan(found, wish.recipe, ignore, follow_links=links)
    else:
        found = find_source(source, lambda folder: _check_config(folder, links), offline=options.offline)
        lora, pooling = options.lora or (), options.pooling
        planned = make_plan(found, wish.recipe, ignore, follow_links=links, lora=lora, pooling=pooling)
        if planned.packed and (kept := keeping_packed(wish, options, planned.sources)) is not wish:
            wish = kept
            planned = with_recipe(planned, wish.recipe)
        if wish.target is not None and "logits" not in planned.program.outputs:
            wish = without_target(wish, options)
            planned = with_recipe(planned, wish.recipe)
        if wish.target is None and options.recipe is None and isinstance(planned.model, TextSpec):
            planned = with_recipe(planned, with_sensitive(wish.recipe, [tensor.spec for tensor in planned.tensors]))
    if check is not None:
        check(planned if wish.target is None else rehearsal(planned, wish.method))
    if wish.target is None:
        return planned
    return solve_target(planned, wish.target, wish.method, options.calibration, options.report)


def unsolved_plan(source: str | os.PathLike[str], options: PlanOptions, recipe: Recipe) -> Plan:
    """The plan of a checkpoint by a recipe, whatever the target."""
    links, ignore = options.follow_links, options.ignore or ()
    found = find_source(source, lambda folder: _check_config(folder, links))
    return make_plan(found, recipe, ignore, follow_links=links, lora=options.lora or (), pooling=options.pooling)


def prepare(
    source: str | os.PathLike[str], out: str | os.PathLike[str] | None, options: Options
) -> tuple[Plan, Calibration | None]:
    """Plan a conversion and read what its methods calibrate on; what cannot work is refused before what takes time.

    Args:
        source: See `convert`.
        out: Where the result is to lie; None if it is not to be written.
        options: See `convert`.

    Raises:
        GGQError: Whatever would make the conversion fail, as far as it shows before a weight is read.
    """

    def check(planned: Plan) -> None:
        if out is not None:
            check_not_input(out, options.calibration, options.statistics, options.recipe)
            taken = options.force or (options.resume and may_be_done(Path(out)))
            check_output(planned, Path(out), force=taken)
        check_calibration(planned, options)

    planned = make_solved_plan(source, options, check)
    return planned, make_calibration(planned, options)


@takes_options(Options)
def convert(source: str | os.PathLike[str], out: str | os.PathLike[str], options: Options) -> Report:
    """Convert a Hugging Face checkpoint to one quantized file.

    Args:
        source: A folder, ORG/NAME or ORG/NAME@REVISION on the Hugging Face hub, or a GGUF file: its tensors keep their
            codes where a scheme expresses their type, and are quantized anew where `scheme` says so.
        out: The file to write; until it is whole it is called OUT.partial.
        {options}

    Returns:
        What was written and how far it is from the original.

    Raises:
        GGQError: The checkpoint, an option or the place of the result cannot be used, or the disk is full.
    """
    if is_gguf(source):
        from ggq.convert.imported import import_gguf

        return import_gguf(Path(source), Path(out), options)
    start = time.perf_counter()
    planned, calibration = prepare(source, out, options)
    with bar("converting", "B", scale=True) if options.progress is None else nullcontext() as shown:
        given = options if shown is None else replace(options, progress=shown)
        return run(planned, Path(out), given, calibration, start)


def run(
    planned: Plan,
    out: Path,
    options: RunOptions,
    calibration: Calibration | None = None,
    start: float | None = None,
) -> Report:
    """Carry out a plan; options as for `convert`, the calibration made by `make_calibration`.

    Args:
        start: When the work began, by `time.perf_counter`, where planning shall count too.
    """
    start = time.perf_counter() if start is None else start
    identity = fingerprint(planned, calibration)
    if options.resume and (digest := done(out, identity)) is not None:
        return _report(planned, out, options, digest, start, {tensor.name for tensor in file_tensors(planned)})
    check_output(planned, out, force=options.force)
    check_disk(planned, out)
    writer = Writer(out, force=options.force, resume=options.resume, fingerprint=identity)
    try:
        with writer:
            check_resumed(planned, writer)
            finished = writer.finished
            for key, value in metadata(planned):
                writer.add_metadata(key, value)
            for name, data in planned.assets.items():
                writer.add_asset(name, data)
            write_tensors(planned, writer, worker_count(options), options.progress, calibration)
            digest = writer.finish()
    except ConvertError:  # the weights cannot be converted: there is nothing to go on from
        for path in (writer.partial, writer.journal):
            Path(path).unlink(missing_ok=True)
        raise
    return _report(planned, out, options, digest, start, finished)


def _report(planned: Plan, out: Path, options: RunOptions, digest: bytes, start: float, finished: set[str]) -> Report:
    """What is told of a whole file, begun at `start` when some tensors were finished already."""
    seconds = time.perf_counter() - start
    read = sum(tensor.source_bytes for tensor in file_tensors(planned) if tensor.name not in finished)
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
        workers=worker_count(options),
        resumed=len(finished),
        ignored=planned.ignored,
        notes=planned.notes,
        unread_keys=planned.unread_keys,
        tensors=read_results(out, planned),
    )


def worker_count(options: RunOptions) -> int:
    """The number of threads to use."""
    if options.workers is not None:
        return options.workers
    from ggq_kernels.run.cores import physical_cores

    return min(physical_cores(), MOST_WORKERS)


def metadata(planned: Plan) -> Iterator[tuple[str, Value]]:
    """The metadata of the result, in order (spec/metadata.md)."""
    yield "general.name", planned.source.name
    yield "general.source", planned.source.origin
    if planned.adapters:
        yield "general.adapters", list(planned.adapters)
    yield "general.producer", f"ggq {ggq.__version__}"
    if planned.described is not None:
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
    taken = any(tensor.taken is not None for tensor in planned.tensors)
    yield "quantization.method", METHOD if taken else recipe.body_method
    if planned.described is not None:
        yield "quantization.embedding", scheme_name(recipe.embedding)
    yield "quantization.recipe", recipe_text(recipe)
    yield "quantization.bits_per_weight", planned.bits_per_weight


def _check_config(folder: Path, follow_links: bool = False) -> None:
    """Refuse a model of an architecture that is not supported, from its config.json."""
    files = Folder(folder, follow_links=follow_links)
    config, path = load_config(files), files.path / CONFIG
    describe(config, path)
