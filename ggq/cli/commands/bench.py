"""`ggq bench`: how fast a file loads, reads a prompt and writes text, measured as llama-bench does."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer

from ggq.cli.compiling import announce_compiling, compile_seconds
from ggq.cli.generation import ACTIVATIONS, ALLOW_LONGER, CACHE, CONTEXT, FILE, INTERPRETER, LORA, THREADS
from ggq.cli.layout import pairs
from ggq.cli.output import one_line, print_json, size
from ggq.engine.footprint import memory_beside
from ggq.errors import UsageError
from ggq.format.container import Container, StoredTensor
from ggq.generate.loading import load
from ggq.models.build import build_program
from ggq.models.metadata import from_metadata
from ggq.models.parts import Experts, Stack
from ggq.tape.caches import state_numbers
from ggq.tape.executor import Executor
from ggq.tape.program import Run

if TYPE_CHECKING:
    from ggq_kernels.run.limits import MemoryReader

SEED = 20
"""Of the random token ids."""
PROMPT, GENERATE = 512, 64
"""Tokens of a prompt, and tokens that are generated, as llama-bench has them."""
EXPERT = re.compile(r"layers\.([0-9]+)\.experts\.[0-9]+\.")
"""What the roles of an expert's tensors begin with."""
READS = 8
"""Passes over memory between two decoding runs."""


def bench(
    file: FILE,
    prompt: Annotated[
        int | None,
        typer.Option(metavar="N", help=f"Tokens of the prompt; {PROMPT} or the model's context.", min=1),
    ] = None,
    generate: Annotated[
        int | None, typer.Option(metavar="N", help=f"Tokens to generate; {GENERATE} or the model's context.", min=1)
    ] = None,
    repeat: Annotated[int, typer.Option(metavar="N", help="Times each is measured; the median counts.", min=1)] = 3,
    threads: THREADS = None,
    activations: ACTIVATIONS = "int8",
    cache: CACHE = None,
    lora: LORA = None,
    context: CONTEXT = None,
    allow_longer: ALLOW_LONGER = False,
    interpreter: INTERPRETER = "numba",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure loading, prefill and decoding.

    Token ids are random, each part is warmed up once, and neither tokenizing nor sampling is in the times, as in
    llama-bench; decoding starts from an empty sequence. Of experts those count that a token goes through; states of
    scans and delta rules count as read and written. The first token's time is what a new process waits for it: loading
    and the first pass over the prompt.

    Example:
        ggq bench model.ggq
        ggq bench model.ggq --prompt 2048 --generate 128 --threads 4 --json
    """
    announce_compiling(interpreter)
    start, before = time.perf_counter(), compile_seconds(interpreter)
    with load(
        file,
        threads=threads,
        activations=activations,
        cache=cache,
        interpreter=interpreter,
        lora=lora or (),
        context=context,
        allow_longer=allow_longer,
    ) as model:
        compile_s = compile_seconds(interpreter) - before
        load_s = time.perf_counter() - start - compile_s
        prompt, generate = (
            min(usual, model.config.context_length) if wished is None else wished
            for wished, usual in ((prompt, PROMPT), (generate, GENERATE))
        )
        if max(prompt, generate) > model.config.context_length:
            problem = (
                f"{max(prompt, generate)} tokens do not fit into the model's context of {model.config.context_length}"
            )
            raise UsageError(problem, fix="give a smaller --prompt or --generate, or --context N --allow-longer")
        tokens = np.random.default_rng(SEED).integers(0, model.config.vocabulary_size, max(prompt, generate))
        used = getattr(model.executor, "threads", 1)
        between = Between(file, used if interpreter == "numba" else 0)
        times = measure(model.executor, tokens.astype(np.int32), prompt, generate, repeat, between)
        traffic = work(model.reader)
        document = {
            "file": model.reader.path,
            "name": model.reader.metadata.get("general.name"),
            "digest": model.reader.digest,
            **figures(times, traffic, prompt, generate),
            "compile_s": compile_s,
            "load_s": load_s,
            "first_token_s": compile_s + load_s + times.first_pass,
            "prompt": prompt,
            "generate": generate,
            "repeat": repeat,
            "activations": activations,
            "interpreter": interpreter,
            "memory_bytes": between.memory,
            "bandwidth_gb_s": statistics.median(between.rates) if between.rates else None,
            "bandwidth_share": None,
        }
    document.update(_machine(used, interpreter))
    if between.rates:
        document["bandwidth_share"] = document["moved_gb_s"] / document["bandwidth_gb_s"]
    if as_json:
        print_json(document)
    else:
        _print(document)


class Times(NamedTuple):
    """Seconds of the very first pass over the prompt, and of each repeat of prefill and of decoding."""

    first_pass: float
    prefill: list[float]
    decode: list[float]


class Work(NamedTuple):
    """What the model costs.

    Args:
        body: Weights of the matrices that every token of a prompt meets.
        head: Weights of the matrices that only the last token meets: the output, and all of the last layer that comes
            after its attention.
        bytes: Bytes of the tensors that one decoded token reads; of experts as many as it goes through.
        states: Bytes of states (of scans, delta rules, convolutions) that it reads and writes.
    """

    body: int
    head: int
    bytes: int
    states: int = 0


class Between:
    """What is measured between decoding runs: called, it notes the memory held and reads memory some times.

    On a shared machine the bandwidth changes from second to second, so it is measured in turns with what is held
    against it, and the median counts on both sides.

    Args:
        file: The model's.
        threads: That read; 0 for none.
    """

    def __init__(self, file: Path, threads: int) -> None:
        self._file, self._threads = file, threads
        self._reader: MemoryReader | None = None
        self.memory: int | None = None
        self.rates: list[float] = []

    def __call__(self) -> None:
        if not self.rates:  # later the buffer that is read would count
            self.memory = memory_beside(self._file)
        if self._threads:
            from ggq_kernels.run.limits import MemoryReader

            self._reader = self._reader or MemoryReader(self._threads)
            self.rates += self._reader.rates(READS)


def measure(
    executor: Executor,
    tokens: np.ndarray,
    prompt: int,
    generate: int,
    repeat: int,
    between: Callable[[], None] = lambda: None,
) -> Times:
    """Time an executor on token ids, int32 (at least the larger of prompt and generate,).

    Args:
        executor: Nothing has run on it yet.
        tokens: What to feed it.
        prompt: Tokens of a prefill.
        generate: Tokens of a decoding run, one pass each.
        repeat: Runs of each, after one that warms up.
        between: Called before and after each decoding run.
    """

    def prefill(sequence: int) -> None:
        executor.forward([Run(sequence, tokens[:prompt])])

    def decode(sequence: int) -> None:
        for position in range(generate):
            executor.forward([Run(sequence, tokens[position : position + 1], total=generate)])

    first = _time(executor, prefill)
    prefills = [_time(executor, prefill) for _ in range(repeat)]
    _time(executor, decode)
    between()
    decodes = []
    for _ in range(repeat):
        decodes.append(_time(executor, decode))
        between()
    return Times(first, prefills, decodes)


def _time(executor: Executor, call: Callable[[int], None]) -> float:
    """Seconds of a call on a new sequence."""
    sequence = executor.open_sequence()
    try:
        start = time.perf_counter()
        call(sequence)
        return time.perf_counter() - start
    finally:
        executor.close_sequence(sequence)


def work(reader: Container) -> Work:
    """Count the weights and bytes of a file by what its tensors are for."""
    by_role = {str(tensor.attributes.get("role")): tensor for tensor in reader.tensors.values()}
    tied = "output.weight" not in by_role
    head = by_role.pop("embedding.weight") if tied else by_role.pop("output.weight")
    by_role.pop("embedding.weight", None)  # when it is not the output, only one row of it is read
    spec = from_metadata(reader.metadata, reader.path)
    used = {role: _used(spec, role) for role in by_role}
    weights = {role: prod(tensor.shape) * used[role] for role, tensor in by_role.items() if len(tensor.shape) > 1}
    last = f"layers.{max(int(role.split('.')[1]) for role in weights)}."
    behind = tuple(f"{last}{part}." for part in ("attention.o", "mlp", "experts"))
    late = sum(count for role, count in weights.items() if role.startswith(behind))
    traffic = _bytes(head) + sum(_bytes(tensor) * used[role] for role, tensor in by_role.items())
    states = 2 * 4 * state_numbers(build_program(spec).caches, 1)
    return Work(round(sum(weights.values()) - late), round(prod(head.shape) + late), round(traffic), states)


def _used(spec: Stack, role: str) -> Fraction:
    """Which share of a tensor one token meets: of an expert's matrices, that of the experts that are chosen."""
    found = EXPERT.match(role)
    part = spec.layers[int(found[1])].feed_forward if found else None
    return Fraction(part.chosen, part.count) if isinstance(part, Experts) else Fraction(1)


def _bytes(tensor: StoredTensor) -> int:
    return sum(segment.length for segment in tensor.segments.values())


def figures(times: Times, traffic: Work, prompt: int, generate: int) -> dict[str, Any]:
    """Rates from times: medians of the repeats."""
    prefill_s, decode_s = statistics.median(times.prefill), statistics.median(times.decode)
    decode_tok_s = generate / decode_s
    return {
        "prefill_tok_s": prompt / prefill_s,
        "prefill_gop_s": 2 * (traffic.body * prompt + traffic.head) / prefill_s / 1e9,
        "decode_tok_s": decode_tok_s,
        "bytes_per_token": traffic.bytes,
        "state_bytes_per_token": traffic.states,
        "read_gb_s": traffic.bytes * decode_tok_s / 1e9,
        "moved_gb_s": (traffic.bytes + traffic.states) * decode_tok_s / 1e9,
        "prefill_tok_s_runs": [prompt / seconds for seconds in times.prefill],
        "decode_tok_s_runs": [generate / seconds for seconds in times.decode],
    }


def _machine(threads: int, interpreter: str) -> dict[str, Any]:
    """What it ran on."""
    document: dict[str, Any] = {"threads": threads, "isa": None, "tiles": None}
    packages = ["ggq", "numpy"]
    if interpreter == "numba":
        import ggq_kernels

        document["isa"], document["tiles"] = ggq_kernels.instruction_set(), ggq_kernels.tiles()
        packages += ["numba", "llvmlite"]
    document["versions"] = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    return document


def _print(document: dict[str, Any]) -> None:
    reads = f"{document['read_gb_s']:.3g} GB/s read ({size(document['bytes_per_token'])} a token)"
    if document["state_bytes_per_token"]:
        states = f"{size(document['state_bytes_per_token'])} of states"
        reads = f"{document['moved_gb_s']:.3g} GB/s ({size(document['bytes_per_token'])} of weights, {states} a token)"
    if document["bandwidth_gb_s"] is not None:
        reads += f", {document['bandwidth_share']:.0%} of this machine's {document['bandwidth_gb_s']:.1f}"
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    pairs(
        [
            ("model", one_line(document["name"] or document["file"])),
            ("prefill", f"{document['prefill_tok_s']:.1f} tokens/s ({document['prompt']}), {_gop(document)} GOP/s"),
            ("decode", f"{document['decode_tok_s']:.1f} tokens/s ({document['generate']}), {reads}"),
            ("memory", f"{size(document['memory_bytes'])} beside the file" if document["memory_bytes"] else "unknown"),
            *([("compile", f"{document['compile_s']:.2f} s")] if document["compile_s"] else []),
            ("load", f"{document['load_s']:.3f} s; first token after {document['first_token_s']:.3f} s"),
            (
                "spread",
                f"prefill {_spread(document['prefill_tok_s_runs'])}, decode {_spread(document['decode_tok_s_runs'])}",
            ),
            ("settings", f"{document['threads']} threads, {document['activations']}, {target(document)}"),
            ("versions", versions),
        ]
    )


def target(document: dict[str, Any]) -> str:
    """The instruction set, and what of the processor's tile registers."""
    words = {
        "amx-bf16": ", many tokens by AMX tiles of bf16",
        "refused": " (the system does not allow this process AMX tiles)",
    }
    return (document["isa"] or "NumPy") + words.get(document["tiles"] or "", "")


def _gop(document: dict[str, Any]) -> str:
    return f"{document['prefill_gop_s']:.4g}"


def _spread(rates: list[float]) -> str:
    return f"{min(rates):.1f} to {max(rates):.1f}"
