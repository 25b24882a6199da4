"""ggq's side of what `ggq bench` does not measure: one JSON line. bench_peers.py runs it with this tree on its path.

python own.py context FILE THREADS PROMPT GENERATE            the prompt, then decoding behind it
python own.py batch FILE THREADS SEQUENCES GENERATE           one sequence, then several decoded together
python own.py matrix ROWS COLUMNS TOKENS COPIES THREADS       one 4-bit matrix, rounding of activations included
python own.py load FILE THREADS PROMPT                        loading alone, and with the first token of a prompt
python own.py limits THREADS                                  what the machine can do
python own.py prompt FILE TOKENS                              a text of so many tokens
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import ggq_kernels
from ggq.engine.batch import Batch
from ggq.engine.bind import bind
from ggq.engine.weights import Weights
from ggq.format import Writer, open_reader
from ggq.generate.loading import load
from ggq.quant import parse_scheme
from ggq.tape.ops import Linear
from ggq.tape.program import Buffer, Inputs, Program, Run
from ggq_kernels.run.threads import Team

SECONDS = 2.0
"""How long a matrix is measured, about."""


def behind(path: str, threads: int, prompt: int, generate: int) -> dict[str, Any]:
    """A long prompt, and decoding behind it, after a warm-up."""
    with load(path, threads=threads) as model:
        ids = np.random.default_rng(0).integers(0, 1000, prompt + generate).astype(np.int32)
        executor, seconds = model.executor, []
        for count, more in ((16, 4), (prompt, generate)):
            sequence = executor.open_sequence()
            start = time.perf_counter()
            executor.forward([Run(sequence, ids[:count])])
            middle = time.perf_counter()
            for i in range(more):
                executor.forward([Run(sequence, ids[count + i : count + i + 1])])
            seconds = [middle - start, time.perf_counter() - middle]
            executor.close_sequence(sequence)
    return {"prefill_tok_s": prompt / seconds[0], "decode_tok_s": generate / seconds[1]}


def loading(path: str, threads: int, prompt: int) -> dict[str, Any]:
    """Seconds until a model is there, and until the first token of a prompt is known, in a process that has imported
    what it needs for that."""
    ids = np.random.default_rng(0).integers(0, 1000, prompt).astype(np.int32)
    for name in ("ggq.gguf.container", "ggq_kernels.run.calls"):  # as the peer's library is there before its clock runs
        import_module(name)
    start = time.perf_counter()
    with load(path, threads=threads) as model:
        loaded = time.perf_counter()
        model.executor.forward([Run(model.executor.open_sequence(), ids)])
        return {"load_s": loaded - start, "first_s": time.perf_counter() - start}


def batch(path: str, threads: int, sequences: int, generate: int) -> dict[str, Any]:
    """Tokens per second of one sequence, and of several together."""
    rates = {}
    with load(path, threads=threads) as model:
        executor = model.executor
        ids = np.random.default_rng(0).integers(0, 1000, generate).astype(np.int32)
        for name, count in (("warm", sequences), ("one", 1), ("many", sequences)):
            opened = [executor.open_sequence() for _ in range(count)]
            start = time.perf_counter()
            for i in range(generate if name != "warm" else 2):
                executor.forward([Run(sequence, ids[i : i + 1]) for sequence in opened])
            rates[name] = count * generate / (time.perf_counter() - start)
            for sequence in opened:
                executor.close_sequence(sequence)
    return {"one_tok_s": rates["one"], "many_tok_s": rates["many"]}


def matrix(rows: int, columns: int, tokens: int, copies: int, threads: int) -> dict[str, Any]:
    """Median seconds of one of several matrices of q4-g32, each with activations of its own to round."""
    rng, scheme = np.random.default_rng(0), parse_scheme("q4-g32")
    names = [f"w{i}" for i in range(copies)]
    inputs = {name: Buffer(f"{name}.x", columns) for name in names}
    ops = tuple(Linear(inputs[n], (n,), (None,), (Buffer(f"{n}.y", rows),)) for n in names)
    program = Program(ops, Inputs(1, tokens), {"logits": ops[-1].outs[0]})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matrix.ggq"
        with Writer(path) as writer:
            for name in names:
                lengths = scheme.geometry((rows, columns)).lengths
                scales = (rng.random(lengths["scales"] // 2) * 0.01).astype(np.float16)
                codes = rng.integers(0, 256, lengths["codes"], dtype=np.uint8)
                writer.add_tensor(name, (rows, columns), scheme, {"codes": codes, "scales": scales})
            writer.finish()
        with open_reader(path) as reader:
            team = Team(threads)
            described = Batch(tokens)
            weights = Weights(reader, dict(zip(names, names)))
            bound = bind(program, weights, described, {"tokens": tokens}, "int8", "f16", team.threads)
            for buffer in inputs.values():
                bound.array(buffer)[:] = rng.standard_normal((1, columns), dtype=np.float32)
            described.counts[:] = tokens, 0, 0
            seconds: list[float] = []
            team.run(bound.rows)
            team.run(bound.rows)
            end = time.perf_counter() + SECONDS
            while time.perf_counter() < end or len(seconds) < 5:
                start = time.perf_counter()
                team.run(bound.rows)
                seconds.append(time.perf_counter() - start)
            team.close()
    return {"seconds": statistics.median(seconds) / copies, "bytes": scheme.geometry((rows, columns)).bytes}


def limits(threads: int) -> dict[str, Any]:
    """Read bandwidth, integer peak, and the peak of tile registers where there are some."""
    found = {"bandwidth_gb_s": ggq_kernels.read_bandwidth(threads), "peak_gop_s": ggq_kernels.integer_peak(threads)}
    tiles = {"tile_gop_s": ggq_kernels.tile_peak(threads)} if ggq_kernels.tiles() == "amx-bf16" else {}
    return {**found, **tiles, "isa": ggq_kernels.instruction_set(), "tiles": ggq_kernels.tiles()}


def prompt(path: str, tokens: int) -> dict[str, Any]:
    """The shortest beginning of a text that has so many tokens."""
    with load(path, threads=1) as model:
        text = "Once upon a time there was a program that read its weights where they lay. " * tokens
        for end in range(1, len(text)):
            if len(model.encode(text[:end])) == tokens:
                return {"text": text[:end]}
    raise SystemExit(f"no text has {tokens} tokens")


def main() -> None:
    mode, *words = sys.argv[1:]
    modes: dict[str, Any] = {"context": behind, "batch": batch, "load": loading, "matrix": matrix}
    modes |= {"limits": limits, "prompt": prompt}
    print(json.dumps(modes[mode](*(int(word) if word.isdecimal() else word for word in words))))


if __name__ == "__main__":
    main()
