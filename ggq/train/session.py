"""`ggq train`: a checkpoint and a text in, a file of few bits out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blake3 import blake3

from ggq.convert.convert import plan as plan_conversion
from ggq.convert.declare import takes_options
from ggq.convert.options import RunOptions
from ggq.convert.plan.fingerprint import fingerprint
from ggq.convert.plan.plan import Plan
from ggq.convert.plan.preflight import check_output
from ggq.convert.write.report import Report
from ggq.errors import UsageError
from ggq.format import open_reader
from ggq.format.gguf.kind import is_gguf
from ggq.format.paths import check_not_input
from ggq.format.scheme_names import parse_filled, scheme_name
from ggq.format.stacks import unstacked
from ggq.quant.stored import GROUP, STATIC, segments_of
from ggq.quant.tiles import unpack
from ggq.text.tokenizer import TOKENIZER
from ggq.train.build import Starts, student_of, teacher_of
from ggq.train.loop import Loop, Pace, Phase, Progress
from ggq.train.options import BLOCKWISE, LSQ, QAT, TrainOptions
from ggq.train.phases import Rates, Work, layer_phases, scales_alone, whole
from ggq.train.program import ProgramModule
from ggq.train.quantize.inputs import InputRounding
from ggq.train.save import Outcome, write_file
from ggq.train.texts.sampled import kept, sampled
from ggq.train.texts.windows import Windows, hold_out, pack

CONTEXT, STEPS, SCALE_STEPS, LAYER_STEPS, SHARE = 512, 300, 150, 100, 1.0
"""Defaults, where the model and the method allow them."""

OBSERVED = 4
"""Batches on which ranges of static inputs are observed."""


@dataclass(frozen=True)
class Trained:
    """What a training has written.

    Args:
        report: Of the conversion.
        before, after: Perplexity on the windows that were held out: as it began, and of what was written.
        full: Of the full-precision model there; NaN where it was not needed.
        steps: Steps that this process took.
        tokens: Tokens of the text.
        seconds, cpu_seconds: From the beginning to the finished file.
    """

    report: Report
    before: float
    after: float
    full: float
    steps: int
    tokens: int
    seconds: float
    cpu_seconds: float

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        own = {key: value for key, value in vars(self).items() if key != "report"}
        return {**own, "report": self.report.document()}


@takes_options(TrainOptions)
def run(source: str | os.PathLike[str], out: str | os.PathLike[str], options: TrainOptions) -> Trained:
    """Train a checkpoint for few bits and write the result as a ggq file.

    Args:
        source: A folder, or ORG/NAME or ORG/NAME@REVISION on the Hugging Face hub.
        out: The file to write. While it is trained, its state is kept in OUT.training.
        {options}

    Raises:
        GGQError: The checkpoint, a text or an option cannot be used, or the loss is not finite.
        Stopped: It was told to stop early; its state is kept.
    """
    begun, cpu = time.perf_counter(), time.process_time()
    planned = make_training_plan(source, Path(out), options)
    torch.manual_seed(options.seed)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    place = Path(f"{os.fspath(out)}.training")
    if place.exists() and not (options.resume or options.force):
        fix = "--resume goes on from there, --force begins anew"
        raise UsageError("a training was interrupted here", path=place, fix=fix)
    windows, held = read_texts(planned, options)
    beside = Path(f"{os.fspath(out)}.sampled")
    if options.sample:
        windows = write_windows(source, windows, options, beside)
    work = make_work(planned, options, windows, held)
    before, full = work.score(), float("nan") if work.teacher is None else _score_of(work, work.teacher)
    pace = Pace(
        options.score_every, options.patience or 0, options.save_every, place, options.progress or (lambda _: None)
    )
    loop = Loop(work.student, pace, identity_of(planned, options, windows))
    loop.run(phases_of(work, options), options.resume)
    after = work.score()
    kept = None if options.out_checkpoint is None else Path(options.out_checkpoint)
    outcomes = outcomes_of(planned, work.student)
    report = write_file(planned, outcomes, Path(out), planned.recipe, RunOptions(force=options.force), kept)
    for path in (place, beside):
        path.unlink(missing_ok=True)
    spent = time.perf_counter() - begun, time.process_time() - cpu
    return Trained(report, before, after, full, loop.steps, int(windows.size), *spent)


def make_training_plan(source: str | os.PathLike[str], out: Path, options: TrainOptions) -> Plan:
    """The plan of the conversion that is trained for; what cannot work is refused before a weight is read."""
    if is_gguf(source):
        raise UsageError("a GGUF file is quantized already", path=source, fix="train the checkpoint it was made from")
    if not options.text:
        raise UsageError("a text to train on is missing", fix="give --text TEXT")
    if options.scheme is None:
        raise UsageError("a scheme to train for is missing", fix="give --scheme q2-g64, for example")
    if options.distill is not None and options.distill > 1:
        raise UsageError(f"distill must be above 0 and at most 1, not {options.distill:g}")
    check_not_input(out, *options.text, options.start, options.validation)
    scheme, embedding = (None if name is None else _plain(name) for name in (options.scheme, options.embedding))
    planned = plan_conversion(source, scheme=scheme, embedding=embedding, keep=options.keep)
    if any(rule.method for rule in planned.recipe.rules):
        raise UsageError("--keep names a method, which training does not take", fix="name the scheme alone, as c4-g64")
    if all(tensor.scheme.kind == "float" for tensor in planned.tensors):
        raise UsageError(f"{options.scheme} stores floats: there is nothing to train")
    check_output(planned, out, force=options.force)
    if options.out_checkpoint is not None and os.path.lexists(options.out_checkpoint):
        raise UsageError("it exists already", path=options.out_checkpoint, fix="give the name of a new folder")
    return planned


def _plain(name: str) -> str:
    """The name of a scheme that says nothing of a method: "c4-g64" of "nf4-g64"."""
    scheme = parse_filled(name)[0]
    if scheme.transform:
        raise UsageError(f"scheme {name} has a transform of inputs: only schemes without can be trained")
    return scheme_name(scheme)


def read_texts(planned: Plan, options: TrainOptions) -> tuple[Windows, Windows]:
    """Windows to train on and windows to score.

    Raises:
        UsageError: No tokenizer, a context that the model does not have, or too little text.
    """
    if TOKENIZER not in planned.assets:
        raise UsageError(f"the checkpoint has no {TOKENIZER}, which texts need", path=planned.source.folder)
    most = planned.model.context_length
    context = min(CONTEXT, most) if options.context is None else options.context
    if context > most:
        raise UsageError(f"context must be 2 to {most} for this model, not {context}")
    tokenizer = planned.assets[TOKENIZER]
    windows = pack(options.text or (), tokenizer, planned.tokens, context)
    if options.validation is None:
        return hold_out(windows)
    return windows, pack([options.validation], tokenizer, planned.tokens, context)[:32]


def write_windows(source: str | os.PathLike[str], windows: Windows, options: TrainOptions, place: Path) -> Windows:
    """Windows that the model writes, kept in a file while it is trained."""
    tell = options.progress or (lambda _: None)

    def told(done: int) -> None:
        tell(Progress("sample", done, options.sample, float("nan")))

    def make() -> Windows:
        return sampled(source, windows, options.sample, options.seed, options.threads, told)

    return kept(place, make, options.resume)


def make_work(planned: Plan, options: TrainOptions, windows: Windows, held: Windows) -> Work:
    """The modules, and what the phases share."""
    method = options.method or BLOCKWISE
    share = (SHARE if method == BLOCKWISE else 0.0) if options.distill is None else options.distill
    starts = None if options.start is None else starts_of(Path(options.start), planned)
    rounding = None if options.activations is None else InputRounding(options.activations)
    grid = options.grid or "mse"
    student = student_of(planned, method != QAT, grid, starts, options.rank or 0, rounding)
    student.remember = not options.checkpointing
    teacher = teacher_of(planned) if share or method == BLOCKWISE else None
    standard = Rates()
    steps = (options.step_rate or each for each in (standard.steps, standard.scales))
    rates = Rates(options.rate or standard.weights, *steps)
    work = Work(student, teacher, windows, held, options.batch, options.seed, rates, share, bf16=options.bf16)
    if rounding is not None and rounding.form == STATIC:
        observe(work, rounding)
    return work


def observe(work: Work, rounding: InputRounding) -> None:
    """See the ranges of inputs on a few batches."""
    rounding.observing = True
    with torch.no_grad():
        for step in range(OBSERVED):
            work.student(work.tokens(step))
    rounding.observing = False


def phases_of(work: Work, options: TrainOptions) -> list[Callable[[], Phase]]:
    """What is done one after the other."""
    method = options.method or BLOCKWISE
    if method in (QAT, LSQ):
        return [partial(whole, work, method, STEPS if options.steps is None else options.steps)]
    layers = layer_phases(work, options.layer_steps or LAYER_STEPS)
    return [*layers, partial(scales_alone, work, SCALE_STEPS if options.steps is None else options.steps)]


def starts_of(path: Path, planned: Plan) -> Starts:
    """The codes of a file's matrices, by role.

    Raises:
        UsageError: A matrix is missing there, or stored under another scheme.
    """
    starts = {}
    with open_reader(path) as file:
        reader = unstacked(file)
        entries = {str(entry.attributes.get("role", "")): entry for entry in reader.tensors.values()}
        for tensor in planned.tensors:
            if tensor.scheme.kind == "float":
                continue
            entry = entries.get(tensor.role)
            if entry is None or (entry.scheme, entry.shape) != (tensor.scheme, tensor.shape):
                problem = f"no matrix of scheme {scheme_name(tensor.scheme)} and shape {list(tensor.shape)}"
                raise UsageError(problem, path=path, where=f"tensor {tensor.name}")
            rows, columns = tensor.shape
            starts[tensor.role] = unpack(tensor.scheme, (rows, columns), segments_of(reader, entry))
    return starts


def outcomes_of(planned: Plan, student: ProgramModule) -> dict[str, Outcome]:
    """What was made of each tensor, by role: the very numbers that the last forward pass computed with."""
    found = {}
    for tensor in planned.tensors:
        weight = student.weight(tensor.role)
        with torch.no_grad():
            numbers = weight().numpy(force=True).astype(np.float32)
        if weight.quantizer is None:
            found[tensor.role] = Outcome(numbers, moved=weight.numbers.requires_grad)
        else:
            notes = notes_of(student, tensor.role)
            found[tensor.role] = Outcome(numbers, weight.matrix(), notes=notes)
    return found


def notes_of(student: ProgramModule, role: str) -> dict[str, str | float]:
    """How the inputs of a matrix are rounded (M-11), for its attributes."""
    rounding = student.rounding
    if rounding is None or rounding.form == GROUP or role not in rounding.met:
        return {}
    step = {"activation_step": rounding.ranges[role] / 127} if rounding.form == STATIC else {}
    return {"activations": rounding.form, **step}


def identity_of(planned: Plan, options: TrainOptions, windows: Windows) -> str:
    """What must be the same when a training is resumed."""
    watched = ("progress", "resume", "force", "save_every", "threads", "out_checkpoint", "text", "start", "validation")
    given = {name: value for name, value in vars(options).items() if name not in watched}
    start = None if options.start is None else blake3(Path(options.start).read_bytes()).hexdigest()
    text = blake3(windows.tobytes()).hexdigest()
    parts = {"plan": fingerprint(planned).hex(), "options": given, "start": start, "windows": text}
    return blake3(json.dumps(parts, sort_keys=True, default=list).encode()).hexdigest()


def _score_of(work: Work, module: ProgramModule) -> float:
    from ggq.train.losses import perplexity

    return perplexity(module, work.moved(work.held))
