"""`ggq convert`: a Hugging Face checkpoint in, one quantized file out."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggq.cli.bars import conversion_bar, reporting
from ggq.cli.interrupts import interrupted
from ggq.cli.layout import pairs, paragraph, table
from ggq.cli.options import command_options
from ggq.cli.output import print_json, printable, progress, quantity, size
from ggq.convert.options import Options
from ggq.errors import UsageError
from ggq.format.gguf.kind import is_gguf

if TYPE_CHECKING:
    from ggq.convert.calibrate.calibration import Calibration
    from ggq.convert.plan.plan import Plan
    from ggq.convert.write.report import Report


@command_options(Options)
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder with config.json, tokenizer.json and safetensors files, or ORG/NAME[@REVISION] on the hub.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="The file to write, OUT.ggq or OUT.gguf.", show_default=False)
    ] = None,
    *,
    type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="Of matrices in OUT.gguf: q4_k_m, q8_0, f16 ...; see `ggq export`.", show_default=False
        ),
    ] = None,
    imatrix: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An importance matrix of llama.cpp's for OUT.gguf; with --calibration it is written.",
            show_default=False,
        ),
    ] = None,
    fits: Annotated[
        bool, typer.Option("--what-fits", help="Print what each preset would be on this machine, and write nothing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    **options: Any,
) -> int:
    """Turn a Hugging Face checkpoint, or a GGUF file, into one quantized file.

    Memory stays small whatever the model: weights are read, quantized and written by blocks. The file appears under its
    name when it is whole; until then it is OUT.ggq.partial, and --resume goes on from it after a crash, a full disk or
    Ctrl-C. The result is the same for any number of workers.

    Example:
        ggq convert ./my-model my-model.ggq
        ggq convert ./my-model my-model.gguf --type q4_k_m
        ggq convert ./my-model my-model.ggq --target-size 3GiB --calibration text.txt --method gptq
        ggq convert HuggingFaceTB/SmolLM2-135M smol.ggq --scheme q4z-g64 --keep "down_proj=q6-g64"
        ggq convert ./my-model my-model.ggq --scheme q3-g64 --method gptq --calibration text.txt
    """
    from ggq.convert.behind import compile_behind
    from ggq.convert.convert import prepare, run, worker_count
    from ggq.convert.plan.preflight import check_disk

    if fits:
        return _show_fits(source, Options(**options), as_json)
    if out is None and not dry_run:
        raise UsageError("the name of the file to write is missing", fix="give OUT.ggq, or --dry-run to see the plan")
    given = Options(**options)
    if out is not None and out.suffix == ".gguf":
        return _to_gguf(source, out, type, imatrix, given, dry_run, as_json)
    if type is not None or imatrix is not None:
        raise UsageError("--type and --imatrix are for a result whose name ends in .gguf")
    if is_gguf(source):
        return _import(Path(source), out, given, dry_run, as_json)
    start = time.perf_counter()
    with reporting() as report_to:
        planned, calibrated = prepare(source, out, replace(given, report=report_to))
    if dry_run:
        if out is not None:
            check_disk(planned, out)
        _show_plan(planned, calibrated, out, worker_count(given), as_json)
        return 0
    assert out is not None
    compile_behind(planned)
    try:
        with conversion_bar(planned.source_bytes) as bar:
            report = run(planned, out, replace(given, progress=bar), calibrated, start)
    except KeyboardInterrupt:
        return interrupted(f"{out}.partial")
    if as_json:
        print_json(report.document())
    else:
        _show_report(report, [*_ignored(planned), *_unread(planned)])
    return 0


def _show_fits(source: str, options: Options, as_json: bool) -> int:
    """What each preset would be."""
    from ggq.convert.fits import what_fits

    with reporting() as report_to:
        found = what_fits(source, replace(options, report=report_to))
    if as_json:
        print_json({"sizes": [asdict(each) for each in found]})
        return 0
    rows = [
        [
            f"--preset {each.preset}",
            f"{each.bits_per_weight:.2f}",
            size(each.file_bytes),
            f"{each.predicted_kld:.2g}",
            "?" if each.decode_tok_s is None else f"{each.decode_tok_s:.3g}",
            str(each.context) if each.fits else "too large",
        ]
        for each in found
    ]
    table(["", "bits", "size", "divergence", "tokens/s", "context"], rows, right=(1, 2, 3, 4, 5))
    paragraph(
        "\ndivergence: predicted, in nats per token; tokens/s: one sequence on all cores, from the memory's bandwidth "
        "measured just now; context: tokens that fit into memory beside the weights"
    )
    return 0


def _import(source: Path, out: Path | None, options: Options, dry_run: bool, as_json: bool) -> int:
    """A GGUF file, which needs no plan."""
    from ggq.convert.imported import import_gguf

    if dry_run or out is None:
        raise UsageError("--dry-run is for checkpoints: `ggq inspect` shows what a GGUF file holds", path=source)
    size_of_source = source.stat().st_size
    with conversion_bar(size_of_source) as bar:
        report = import_gguf(source, out, replace(options, progress=bar))
    if as_json:
        print_json(report.document())
    else:
        _show_report(report, [("note", printable(note)) for note in report.notes])
    return 0


def _to_gguf(
    source: str, out: Path, type: str | None, imatrix: Path | None, options: Options, dry_run: bool, as_json: bool
) -> int:
    """A GGUF file of a checkpoint."""
    from ggq.cli.commands.export import show_gguf
    from ggq.export.gguf_checkpoint import convert_to_gguf

    if dry_run:
        raise UsageError("--dry-run is for .ggq files", path=out)
    if is_gguf(source):
        raise UsageError("it is a GGUF file already: make a .ggq file of it, which `ggq export` writes", path=source)
    with reporting() as report_to, progress("converting") as advance:
        given = replace(options, report=report_to)
        show_gguf(convert_to_gguf(source, out, type=type, imatrix=imatrix, options=given, progress=advance), as_json)
    return 0


def _show_plan(plan: Plan, calibration: Calibration | None, out: Path | None, workers: int, as_json: bool) -> None:
    from ggq.convert.plan.plan import plan_document
    from ggq.convert.plan.preflight import free_bytes
    from ggq.convert.write.pipeline import memory_estimate

    memory, free = memory_estimate(plan, workers, calibration), None if out is None else free_bytes(out)
    if as_json:
        print_json({**plan_document(plan), "workers": workers, "peak_memory": memory, "disk_free": free})
        return
    document = plan_document(plan)
    rows = [
        [
            printable(t["name"]),
            "x".join(map(str, t["shape"])),
            t["source_dtype"] if t["source"] == t["name"] else printable(f"{t['source_dtype']} {t['source']}"),
            t["scheme"],
            t["method"],
            size(t["bytes"]),
        ]
        for t in document["tensors"]
    ]
    table(["tensor", "shape", "from", "scheme", "method", "size"], rows, right=(1, 5))
    print()
    pairs(
        [
            ("source", f"{printable(plan.source.origin)}, {_kind(plan)}, {size(plan.source_bytes)} to read"),
            ("weights", f"{quantity(plan.weights)} in {len(plan.matrices)} matrices"),
            *_ignored(plan),
            *_unread(plan),
            ("result", f"{size(plan.file_bytes)}, {plan.bits_per_weight:.3f} bits per weight"),
            *_predicted(plan),
            ("disk", f"{size(plan.file_bytes)} needed" + ("" if free is None else f", {size(free)} free")),
            ("memory", f"up to {size(memory)} with {workers} worker{'s' * (workers > 1)}"),
        ]
    )


def _kind(plan: Plan) -> str:
    return plan.architecture if plan.described else "tensors without a model"


def _show_report(report: Report, notes: list[tuple[str, str]]) -> None:
    from ggq.convert.write.report import LOSSY

    print("worst tensors by relative error (root mean square)\n")
    rows = [
        [printable(t.name), t.scheme, t.method, f"{t.relative_rmse:.5f}", f"{t.sqnr_db:.1f}", f"{t.max_error:.4g}"]
        for t in report.worst()
    ]
    table(["tensor", "scheme", "method", "error", "SQNR dB", "largest"], rows, right=(3, 4, 5))
    print()
    if lossy := report.lossy():
        more = f" and {len(lossy) - 1} more" if len(lossy) > 1 else ""
        print(f"{printable(lossy[0].name)}{more}: a relative error above {LOSSY}, little of them is left")
    for tensor in report.tensors:
        if tensor.fallback:
            print(f"{printable(tensor.name)} fell back to {tensor.method}: {tensor.fallback}")
    resumed = f", {report.resumed} of {len(report.tensors)} tensors from before" if report.resumed else ""
    pairs(
        [
            ("file", printable(str(report.path))),
            ("digest", report.digest),
            ("size", f"{size(report.file_bytes)} from {size(report.source_bytes)}"),
            ("bits per weight", f"{report.bits_per_weight:.3f}"),
            *notes,
            ("time", f"{report.seconds:.2f} s, {report.megabytes_per_second:.0f} MB/s{resumed}"),
            ("peak memory", f"{size(report.peak_memory)} with {report.workers} worker{'s' * (report.workers > 1)}"),
        ]
    )


def _predicted(plan: Plan) -> list[tuple[str, str]]:
    """The divergence that a solved mix was chosen for."""
    if plan.divergence is None:
        return []
    return [("divergence", f"about {plan.divergence:.2g} nats per token predicted")]


def _ignored(plan: Plan) -> list[tuple[str, str]]:
    """What was left out, if anything was, and what else is odd."""
    notes = [("note", printable(note)) for note in plan.notes]
    if not plan.ignored:
        return notes
    more = f" and {len(plan.ignored) - 1} more" if len(plan.ignored) > 1 else ""
    return [("left out", f"{printable(plan.ignored[0])}{more}: nothing reads them"), *notes]


def _unread(plan: Plan) -> list[tuple[str, str]]:
    """The keys of config.json that nothing was made of, if there are any."""
    if not plan.unread_keys:
        return []
    shown = ", ".join(printable(key) for key in plan.unread_keys[:3])
    more = f" and {len(plan.unread_keys) - 3} more" if len(plan.unread_keys) > 3 else ""
    return [("not read", f"{shown}{more} in config.json: transformers does not read them for this model either")]
